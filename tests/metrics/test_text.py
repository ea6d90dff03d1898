from src.metrics.text import text_table


def test_columns_and_rules():
    assert text_table(["case", "n"], [["a", "1.5"], ["long name", "20"]], [["mean", "3"]]) == (
        "case         n\n"
        "--------------\n"
        "a          1.5\n"
        "long name   20\n"
        "--------------\n"
        "mean         3")


def test_last_column_of_words_and_no_foot():
    assert text_table(["case", "n", "flag"], [["a", "10", "x y"], ["b", "9", ""]], words_last=True) == (
        "case   n  flag\n"
        "--------------\n"
        "a     10  x y\n"
        "b      9")
