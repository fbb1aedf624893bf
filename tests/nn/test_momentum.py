import pytest
import torch
from torch import nn

from ethoray.nn.momentum import Average, Teacher, momentum


class Student(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.register_buffer("count", torch.tensor([round(value)]))


def test_the_teacher_follows_by_hand():
    student = Student(1.0)
    teacher = Teacher(student)
    student.weight.data.fill_(3.0)
    student.count.fill_(7)
    teacher.follow(student, 0.9)
    assert teacher.copy.weight.item() == pytest.approx(0.9 * 1.0 + 0.1 * 3.0)
    assert teacher.copy.count.item() == 7
    student.weight.data.fill_(-1.0)
    teacher.follow(student, 0.5)
    assert teacher.copy.weight.item() == pytest.approx(0.5 * 1.2 - 0.5)


def test_the_teacher_is_a_copy_without_gradient():
    student = Student(1.0)
    teacher = Teacher(student)
    assert not teacher.copy.weight.requires_grad and student.weight.requires_grad
    teacher.follow(student, 0.0)
    student.weight.data.add_(1.0)
    assert teacher.copy.weight.item() == 1.0


def test_the_average_is_the_mean_of_all_that_were_added():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, generator=generator)
    average = Average(Student(99.0))
    for index, value in enumerate(values):
        average.add(Student(float(value)))
        assert average.copy.weight.item() == pytest.approx(values[: index + 1].mean().item(), abs=1e-6)
    assert average.seen.item() == 20


def test_the_average_goes_on_from_a_saved_state():
    first, second = Average(Student(0.0)), Average(Student(5.0))
    first.add(Student(1.0))
    first.add(Student(2.0))
    second.load_state_dict(first.state_dict())
    for average in (first, second):
        average.add(Student(6.0))
    assert second.copy.weight.item() == pytest.approx(3.0) and torch.equal(first.copy.weight, second.copy.weight)


def test_momentum_rises_to_one_along_a_cosine():
    assert momentum(0.99, 0.0) == pytest.approx(0.99)
    assert momentum(0.99, 0.5) == pytest.approx(0.995)
    assert momentum(0.99, 1.0) == 1.0
    rising = [momentum(0.9, step / 50) for step in range(51)]
    assert rising == sorted(rising)
