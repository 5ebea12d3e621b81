"""What is said of many verdicts: one line for all of which the same is to be said, the likely cause first."""

import math

import pytest

from vsad.pipeline.verdicts import Verdict, Verdicts

RIM = "it lies at the rim of the pictures, or too few normal samples show it"


def said(*found, views=("left", "top"), threshold=1.0):
    return [*Verdicts(views, threshold, list(found)).warnings()]


def good(name, **fields):
    return Verdict(name, "good", 0.5, False)._replace(**fields)


def test_samples_of_which_nothing_is_to_be_said():
    assert said() == []
    assert said(*(good(f"good/{i}", unjudged=(0.02, 0.0), blind=(0.2, 0.3)) for i in range(9))) == []
    assert said(Verdict("bad/0", "bad", 2.0, True)) == []


def test_what_nobody_judges_is_said_where_it_is_not_what_fit_has_told():
    nobody = f"no view judges 28% of left{{}}: {RIM}"
    rim = [good(f"good/{i}", unjudged=(0.28, 0.04)) for i in range(4)]
    assert said(*rim) == [nobody.format(" in most samples")]
    assert said(rim[0]) == [nobody.format("")]
    for usual, expected in (([0.27, 0.0], []), ([0.1, 0.0], [nobody.format(" in most samples")])):
        assert [*Verdicts(("left", "top"), 1.0, rim, usual).warnings()] == expected


def test_alike_warnings_are_one_line_that_counts_and_names_the_first_samples():
    odd = [good(f"good/{i}", unjudged=(0.0, 0.07 + 0.01 * i)) for i in range(4)]
    usual = [good(f"good/{i}", unjudged=(0.0, 0.0)) for i in range(4, 9)]
    where = f"of top: {RIM}, or a reflection hides it"
    four = "each of 4 samples (good/0, good/1, good/2 and 1 more)"
    assert said(*odd, *usual) == [f"{four}: no view judges 7% to 10% {where}"]
    assert said(*odd[:2], *usual) == [f"each of 2 samples (good/0, good/1): no view judges 7% to 8% {where}"]
    assert said(odd[0], *usual) == [f"good/0: no view judges 7% {where}"]
    lay = [good(f"good/{i}", reason=f"too few features match, {i} in all views together") for i in range(5)]
    assert said(*lay, *usual) == [
        "each of 5 samples (good/0, good/1, good/2 and 2 more) was judged where it lay: too few features match, 0 in "
        "all views together; too few features match, 1 in all views together; too few features match, 2 in all views "
        "together; and 2 more"
    ]


def test_a_view_that_judges_much_less_than_usual_or_nothing_is_named():
    usual = [good(f"good/{i}", blind=(0.2, 0.7)) for i in range(5)]
    (line,) = said(*usual, good("good/5", blind=(0.65, 0.7)))
    assert line.startswith("good/5: left itself judges 35% of its picture: the rest is saturated")
    assert said(*usual, good("good/5", blind=(0.55, 0.8))) == []
    dead = [good(f"good/{i}", blind=(0.2, 1.0), defect=True) for i in range(5, 8)]
    (line,) = said(*usual, *dead)
    assert line.startswith("each of 3 samples (good/5, good/6, good/7): top itself judges nothing, so it is called DEF")


def test_a_camera_that_is_blind_in_all_samples_is_no_usual_thing():
    (line,) = said(*(good(f"good/{i}", blind=(0.2, 1.0), defect=True) for i in range(9)))
    assert line.startswith("each of 9 samples (good/0, good/1, good/2 and 6 more): top itself judges nothing")
    (line,) = said(*(good(f"good/{i}", blind=(0.2, 0.97)) for i in range(9)))
    assert line.startswith("each of 9 samples (good/0, good/1, good/2 and 6 more): top itself judges 3% of its picture")


def test_a_score_that_is_no_number_is_said():
    (line,) = said(good("good/0", score=math.nan, defect=True), *(good(f"good/{i}") for i in range(1, 6)))
    assert line.startswith("good/0: the score is no number, so it is called DEFECT")


@pytest.mark.parametrize("label", ["good", None])
def test_the_likely_cause_comes_first_where_it_concerns_most(label):
    alike = [Verdict(f"{i}", label, 9.0, True, (0.0, 0.0), "too few matches", (0.1, 0.1)) for i in range(7)]
    rest = [Verdict(f"1{i}", label, 0.5, False, (0.0, 0.0), None, (0.1, 0.1)) for i in range(3)]
    bad = [Verdict(f"bad/{i}", "bad", 9.0, True, (0.0, 0.0), None, (0.1, 0.1)) for i in range(9)]
    cause, lay = said(*alike, *rest, *bad)
    assert cause.startswith("7 of 10 samples that may be good are called DEFECT, 7 of them not registered or hardly ")
    assert "the detector of another product" in cause
    assert lay == "each of 7 samples (0, 1, 2 and 4 more) was judged where it lay: too few matches"
    # Where few are concerned, or few samples tell, each stands for itself.
    assert len(said(*alike[:3], *rest, *bad)) == len(said(*alike[:4])) == 1
    # A detector of other cameras registers what it is shown, and calls all of it defective.
    other = [each._replace(reason=None) for each in alike]
    (cause,) = said(*other)
    assert cause.startswith("7 of 7 samples that may be good are called DEFECT: unless they are defective, this is ")
    assert said(*other, *rest) == []
    assert said(*bad) == []
    assert said(*other, threshold=math.nan) == []  # of no threshold all are called so


def test_files_of_before_say_nothing_of_blind_views():
    assert said(good("good/0", unjudged=(0.0, 0.0)), good("good/1", unjudged=(0.0, 0.0), blind=(0.1, 0.1))) == []
