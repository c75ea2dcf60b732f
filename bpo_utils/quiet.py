"""Transformers without progress bars and advice: an executed notebook should hold results, not dead widgets."""

import warnings


def transformers() -> None:
    """Silence bars and warnings of Transformers in this process; errors stay."""
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, in a kernel without ipywidgets
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
