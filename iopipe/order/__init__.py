"""Which sample comes when: arithmetic, on every rank the same."""

from iopipe.order.mixture import Mixture as Mixture
from iopipe.order.mixture import Stop as Stop
from iopipe.order.mixture import phases_of as phases_of
from iopipe.order.permutation import permute as permute
from iopipe.order.permutation import round_keys as round_keys
from iopipe.order.permutation import unpermute as unpermute
from iopipe.order.share import Cursor as Cursor
from iopipe.order.share import Order as Order
from iopipe.order.share import Tail as Tail
from iopipe.order.shuffles import BlockShuffle as BlockShuffle
from iopipe.order.shuffles import EpochSequence as EpochSequence
from iopipe.order.shuffles import FullShuffle as FullShuffle
from iopipe.order.shuffles import Mode as Mode
from iopipe.order.shuffles import Stored as Stored
from iopipe.order.shuffles import shuffled as shuffled
