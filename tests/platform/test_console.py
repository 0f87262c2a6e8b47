"""What a command shows: log messages as plain lines on the right stream, progress as a line now and then."""

import logging

import pytest
from sdavs_platform.console import LOGGERS, configure, progress, track

logger = logging.getLogger("sdavs_platform.somewhere")


@pytest.fixture(autouse=True)
def _loggers_as_before():
    before = {name: (log := logging.getLogger(name)) and (log.handlers, log.level) for name in LOGGERS}
    yield
    for name, (handlers, level) in before.items():
        log = logging.getLogger(name)
        log.handlers, log.propagate = handlers, True
        log.setLevel(level)


def test_messages_are_plain_lines_and_warnings_name_themselves(capsys):
    configure()
    logger.debug("details")
    logger.info("epoch %d", 3)
    logger.warning("the storage failed")
    shown = capsys.readouterr()
    assert shown.out == "epoch 3\nwarning: the storage failed\n"
    assert shown.err == ""


def test_a_message_is_written_once_however_often_logging_is_configured(capsys):
    root = logging.StreamHandler()
    logging.getLogger().addHandler(root)
    try:
        configure()
        configure()
        logger.info("once")
    finally:
        logging.getLogger().removeHandler(root)
    shown = capsys.readouterr()
    assert shown.out + shown.err == "once\n"


def test_a_command_whose_output_is_json_logs_to_stderr(capsys):
    configure(to_stderr=True)
    logger.info("busy")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "busy\n"


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys):
    with progress(every=2) as show:
        for done in range(1, 6):
            show("composing", done, 5)
    assert capsys.readouterr().err.splitlines() == [
        "composing: 2 of 5",
        "composing: 4 of 5",
        "composing: 5 of 5",
    ]


def test_tracking_passes_the_items_on_and_counts_them(capsys):
    assert list(track("abc", "reading", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "reading: 3 of 3\n"
