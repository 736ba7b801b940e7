"""Pictures of what teacher and student see in each patch."""
