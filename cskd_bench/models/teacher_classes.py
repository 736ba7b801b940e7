"""Which of a teacher's outputs are the classes of a data set."""

from collections.abc import Sequence

from cskd_bench.errors import UserError


def check_indices(indices: Sequence[int] | None, num_classes: int) -> None:
    """UserError for indices that are not among a teacher's outputs; a negative one would pick from the end."""
    wrong = [index for index in indices or () if not hasattr(index, "__index__") or not 0 <= index < num_classes]
    if wrong:
        raise UserError(
            f"teacher: class_indices holds {wrong[0]}; give whole numbers from 0 to {num_classes - 1}, its outputs"
        )


def class_indices(classes: Sequence[str], num_classes: int, teacher_classes: int) -> list[int] | None:
    """Map a data set's classes to the teacher's; None where they are the same in the same order.

    ImageNet-1k subsets are matched by their synset folder names. UserError for classes that cannot be matched,
    and for 1,000 numbered folders whose order is not that of their numbers.
    """
    from timm.data import ImageNetInfo

    synsets = {name: index for index, name in enumerate(ImageNetInfo().label_names())}
    if teacher_classes == len(synsets) and all(name in synsets for name in classes):
        if len(classes) != num_classes:
            raise UserError(f"data.num_classes: is {num_classes}, the data has {len(classes)} classes; set it to that")
        indices = [synsets[name] for name in classes]
        return None if indices == list(range(teacher_classes)) else indices
    if len(classes) not in (0, num_classes):
        raise UserError(f"data.num_classes: is {num_classes}, the data has {len(classes)} classes; set it to that")
    if num_classes == teacher_classes:
        numbers = [int(name) if name.isdecimal() else -1 for name in classes]
        if teacher_classes == len(synsets) and sorted(numbers) == list(range(len(synsets))) != numbers:
            raise UserError(
                "data: its class folders are numbers, in the order of their digits (0, 1, 10, ...), not the teacher's; "
                "name them with leading zeros (0000 ... 0999) or by ImageNet synset"
            )
        return None
    raise UserError(
        f"teacher: its {teacher_classes} classes cannot be matched with the data's {num_classes} "
        f"({', '.join(classes[:3])}, ...); name class folders by ImageNet synset, or use a teacher of these classes"
    )
