"""A thin package behind the BPO course notebooks.

Heavy libraries are imported only inside the functions that need them.
"""

__version__ = "0.1.0"
