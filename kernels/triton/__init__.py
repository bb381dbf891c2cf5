"""Triton kernels of c2fcore. They need torch and the triton that comes with it, and no compiler.

This folder imports triton, so nothing outside it does: `c2fcore._triton` loads it when a call needs
it and keeps the reason when it cannot.

Conventions
-----------

Files. `<op>.py` holds the kernels of an op and its host function `<op>(...)`, which takes checked
arguments and outputs to fill, in the order of the native modules, and returns nothing. What ops
share stands in files with a leading underscore:

    _ptx.py           instructions that the language has no word for
    _classes.py       membership in the set of small classes
    _upsample.py      bilinear taps, their inverse, first argmax
    _pairs.py         first argmax of two source pixels beside each other
    _cells.py         coarse labels of a tile by corner agreement
    _cell_rows.py     the same, of wide tiles, row by row
    _mixed.py         labels in cells whose corners disagree
    _coarse_labels.py coarse labels that nothing counts
    _coarse.py        one interpolated coarse logit per pixel
    _window_grid.py   windows and the bins they are unions of, on host and device
    _bins.py          bins of a tile, and how its pixels are added to them
    _cell_counts.py   first launch of counting and selection, bins and labels: tiles, which kernel
    _direct_counts.py     its kernel where each pixel has its own label or logits
    _upsampled_counts.py  its kernel from coarse logits
    _selection.py     keys and edges of windows, what both ways of selection write
    _select_many.py   selection among more windows than registers hold
    _windows.py       windows in use, and those that reach a rectangle
    _resample.py      nearest, bilinear and bicubic taps of a patch
    _foreground.py    p_f under the windows
    _merge.py         the merge rule
    _merge_probs.py   scores of aggregate
    _logit_rows.py    logits of pixels between the same two rows of logits
    _divider.py       division of program numbers by what the host knows
    _launch.py        what a launch is made of, and how large a call may be
    _compile.py       ahead-of-time compilation of a launch, registers, shared memory, spills

Plan, then launch. A host function builds its launches with `plan_<op>(...) -> list[Launch]`, a pure
function of tensors and options, and then runs them. Tests and benchmarks/kernel_table.py hand the
same plans to `_compile.py`, with tensors on the "meta" device: what is compiled ahead of time is
what a user's call would launch, specialisation of strides and sizes included.

Names. `_<op>_kernel`, `coarse_ptr`, `coarse_stride_y`, `BLOCK_X`; capitals are
constexpr. Options that change code are constexpr; sizes, strides and class words are not, save
those that are the shape of a block. Class words are listed in `do_not_specialize`, which does not
reach into tuples. What programs and pixels are divided by is a `Divider`.

Tuples. What belongs together is a NamedTuple: an axis of the window grid (`Axis`) or of coarse
logits (`Resize`) as an argument, the shapes of blocks (`Cells`) as one constexpr, a tile, a lane's
cell or an image's logits on the device. A field of a constexpr is one in arithmetic; where a
function of the language demands one, it is bound to a name first (triton 3.6).

Variables. A name assigned inside a loop that exists before it is carried through the loop and must
keep its type and shape there; the interpreter does not mind, the compiler does. One that is only
the bound of another loop triton 3.6 takes for unused, and for what it was before. Constexpr globals
do not mix with integers in the interpreter: use parameters with a default.

Addresses. Offsets are int64 wherever a tensor may exceed 2^31 elements: cast the index, not the
product. Inside a plane too: a channels_last map of 256 classes passes 2^31 at 2900 x 2900 pixels.
What is counted along an axis or within an image, a block past the last one included, is int32;
plans refuse more than that holds, and resized sides too long for float32 (limits in `_launch.py`).

Arithmetic. float32 throughout; multiply-adds that F.interpolate contracts are written `tl.fma`.
NaN never wins a strict `>`, so it counts as -inf. The interpreter does not contract.

Exchange inside a program. Values written to global memory by one thread of a program and read by
another are separated by `tl.debug_barrier()`, a bar.sync, which orders global memory for the
threads of the block. Blocks are never synchronised with each other: that is what a second launch
is for.

Workspace. `c2fcore._triton.workspace` gives scratch of the current stream. Its content is garbage:
kernels write before they read, so replaying a captured graph needs nothing cleared.

Determinism. Only integers are added atomically. Floats are summed in a fixed order.

Versions. Triton 3.6 and later; nothing that only one of them has.

Instructions. Inline PTX stands in `_ptx.py` alone, each with the same in the language for the
interpreter.

Interpreter. With TRITON_INTERPRET=1 in the environment before triton is imported, the same code
runs on CPU tensors, slowly. It knows nothing of lanes, shared memory and barriers: the compiled
code is executed too, by a machine for PTX that is part of the tests (tests/ptx_machine.py). These
and ahead-of-time compilation for sm_80, sm_90 and sm_100 are the tests these kernels have passed.
They have not run on a GPU.
"""
