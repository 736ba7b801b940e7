"""What tests of several folders share: processes of their own, and one tiny run."""
