"""Libraries without progress bars and advice: a notebook and a log should hold results, not dead widgets."""

import warnings


def transformers() -> None:
    """Silence bars and warnings of Transformers in this process; errors stay."""
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, in a kernel without ipywidgets
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def deepspeed() -> None:
    """Silence what torch 2.13 says of the names that DeepSpeed 0.19 calls it by: one line for every collective."""
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*is deprecated. Please use", module="torch")
