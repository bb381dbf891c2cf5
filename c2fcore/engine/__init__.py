"""The inference engine: a `C2FNet` as a deployed pipeline; see `Engine`.

From the outside in: `engine` is what users hold. `running` reads many images ahead and hands
results out in order, `inputs` knows what people pass as images. A `lane` takes one batch through
its two looks on a stream of its own; the `plan` of the batch's shape holds the buffers and says
what the steps are, `packing` and `buckets` how patches of several images share a forward of the
fine network. `programs` decides which steps are captured and which plans are kept, `cuda_graphs`
captures them. `networks` makes the copies that run, `folding` takes batch normalisation out of
them, `working_set` knows how many patches fit a processor's cache.
"""

from .engine import Engine
from .running import Result

__all__ = ["Engine", "Result"]
