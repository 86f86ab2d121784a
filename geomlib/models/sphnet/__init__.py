"""SPHNet, QHNet and SO2Net: Kohn-Sham matrices."""

from geomlib.models.sphnet.net import SPHNet
from geomlib.models.sphnet.qhnet import QHNet
from geomlib.models.sphnet.so2net import SO2Net

__all__ = ["QHNet", "SO2Net", "SPHNet"]
