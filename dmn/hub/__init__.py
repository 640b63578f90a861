"""Load networks by name or file, and save them.

`load` takes shipped networks, folders of runs, converted files, classifiers of torchvision, timm
and Hugging Face, and your own code. It returns a `Network`: the model, its classes, and the
transform from a picture to what the model takes. `save_network` and `save_converted` write files
that `load` reads.
"""

from dmn.hub.converted import save_converted
from dmn.hub.loading import load
from dmn.hub.network import Network
from dmn.hub.shipped import save_network

__all__ = ["Network", "load", "save_converted", "save_network"]
