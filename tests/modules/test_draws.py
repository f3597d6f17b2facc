import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.modules.draws import RowSeeds, draw_distractors, uniform, whole_numbers

CPU = torch.device("cpu")


def test_distractors_are_other_frames_of_the_utterance():
    rows = torch.tensor([0] * 9 + [1] * 2 + [4] * 5)
    found = draw_distractors(rows, 200, torch.Generator().manual_seed(0))
    assert (rows[found] == rows.unsqueeze(1)).all()
    for frame, own in enumerate(found):
        expected = {n for n in range(len(rows)) if rows[n] == rows[frame] and n != frame}
        assert set(own.tolist()) == expected, "each other frame is drawn sooner or later, the frame itself never"


@given(seeds=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=5, unique=True), number=st.integers(1, 30))
def test_a_row_draws_by_its_seed_alone(seeds, number):
    """Whatever rows are beside it, and however long they are."""
    together = RowSeeds(seeds)
    first, second = (uniform((len(seeds), number), CPU, together) for _ in range(2))
    assert not torch.equal(first, second), "each call draws new numbers"
    for row, seed in enumerate(seeds):
        alone = RowSeeds([seed])
        assert torch.equal(uniform((1, number + 7), CPU, alone)[0, :number], first[row])
        assert torch.equal(uniform((1, number), CPU, alone)[0], second[row])
    assert len(first.unique(dim=0)) == len(seeds)
    assert bool(((first >= 0) & (first < 1)).all())


def test_whole_numbers_are_all_as_likely():
    for draws in (RowSeeds(range(50)), torch.Generator().manual_seed(0)):
        found = torch.bincount(whole_numbers(3, 7, (50, 400), CPU, draws).flatten())
        assert found.tolist()[:3] == [0, 0, 0]
        assert len(found) == 7
        assert (abs(found[3:] - 5000) < 250).all(), "some four standard deviations"


def test_one_number_for_each_row():
    one, several = (uniform(shape, CPU, RowSeeds([4, 9])) for shape in ((2,), (2, 3)))
    assert torch.equal(one, several[:, 0])


def test_distractors_by_the_seed_of_the_utterance():
    """Those of an utterance of ten masked frames are the same frames of it beside a longer one."""
    alone = draw_distractors(torch.zeros(10, dtype=torch.int64), 6, RowSeeds([5]))
    beside = draw_distractors(torch.tensor([0] * 25 + [1] * 10), 6, RowSeeds([8, 5]))
    assert torch.equal(alone, beside[25:] - 25)
    own = torch.arange(10).unsqueeze(1)
    assert ((alone != own) & (alone < 10)).all()
    assert len(alone.unique()) == 10
    assert draw_distractors(torch.zeros(0, dtype=torch.int64), 6, RowSeeds([5])).shape == (0, 6)


def test_seeds_of_examples_do_not_depend_on_folders():
    """Else a validation of a copied manifest would have other masks."""
    here, there = (RowSeeds.of([f"{f}/valid.json:{n}" for n in range(40)], 40).seeds for f in ("/a", "/b/c"))
    assert here == there
    assert len(set(here)) == 40
    assert list(RowSeeds.of((), 3).seeds) == [0, 1, 2]
