"""Each clip is held out once, together with all that shares something with it."""

import pytest

from sdavs_model.data.core.folds import fold_of_clips

NAMES = [f"clip_{number}" for number in range(10)]


def test_every_fold_holds_out_as_many_clips_and_each_clip_once():
    folds = fold_of_clips(NAMES, [[]] * 10, num_folds=5)
    assert sorted(folds) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_the_division_depends_on_names_and_not_on_their_order():
    folds = dict(zip(NAMES, fold_of_clips(NAMES, [[]] * 10, num_folds=3), strict=True))
    backwards = dict(zip(NAMES[::-1], fold_of_clips(NAMES[::-1], [[]] * 10, num_folds=3), strict=True))
    assert folds == backwards


def test_clips_that_share_a_photograph_or_a_recording_through_others_stay_together():
    assets = [["a"], ["a", "b"], ["b"], ["c"], ["c"], [], [], [], [], []]
    folds = fold_of_clips(NAMES, assets, num_folds=3)
    assert len({folds[0], folds[1], folds[2]}) == 1
    assert folds[3] == folds[4]
    assert set(folds) == {0, 1, 2}


def test_clips_that_all_share_something_are_refused_unless_they_are_divided_one_by_one():
    assets = [["photograph", name] for name in NAMES]
    with pytest.raises(ValueError, match="10 of 10 clips share photographs or recordings"):
        fold_of_clips(NAMES, assets, num_folds=2)
    assert sorted(fold_of_clips(NAMES, assets, num_folds=2, by="clips")) == [0] * 5 + [1] * 5


def test_more_folds_than_clips_are_refused():
    with pytest.raises(ValueError, match="there are only 2 clips"):
        fold_of_clips(NAMES[:2], [[], []], num_folds=3)
