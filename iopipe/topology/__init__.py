"""NUMA nodes, CPUs, GPUs, disks and network cards, and what a run binds itself to.

Stands in the core, below everything that starts threads or allocates.  Invariant: what is not
known is not bound.
"""

from iopipe.topology.binding import Applied as Applied
from iopipe.topology.binding import apply_binding as apply_binding
from iopipe.topology.binding import bound as bound
from iopipe.topology.binding import restore as restore
from iopipe.topology.devices import disks_of as disks_of
from iopipe.topology.machine import Disk as Disk
from iopipe.topology.machine import Gpu as Gpu
from iopipe.topology.machine import Limits as Limits
from iopipe.topology.machine import Nic as Nic
from iopipe.topology.machine import Node as Node
from iopipe.topology.machine import Topology as Topology
from iopipe.topology.machine import pci_address as pci_address
from iopipe.topology.plan import Binding as Binding
from iopipe.topology.plan import plan_binding as plan_binding
from iopipe.topology.policy import MemoryPolicy as MemoryPolicy
from iopipe.topology.policy import Placement as Placement
from iopipe.topology.policy import Policy as Policy
from iopipe.topology.policy import find_pages as find_pages
from iopipe.topology.policy import get_policy as get_policy
from iopipe.topology.policy import place as place
from iopipe.topology.policy import set_policy as set_policy
from iopipe.topology.read import read_topology as read_topology
