// What tests ask of the headers that host and device share, and of the emulator itself.
#include <pybind11/pybind11.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "../../csrc/cuda/launch.h"
#include "../../csrc/tensor.h"
#include "../../kernels/common/bilinear.h"
#include "../../kernels/common/resample_tap.h"
#include "../../kernels/cuda/aggregate_args.h"
#include "../../kernels/cuda/extract_patches_args.h"
#include "../../kernels/cuda/windows_args.h"
#include "faults.h"
#include "watch.h"

namespace py = pybind11;

namespace c2f::cuda {

extern const KernelTable aggregate_kernels, extract_patches_kernels,
    extract_patches_backward_kernels, extract_targets_kernels, windows_kernels, faults_kernels;

namespace {

// Kernel `key` of faults.cu by 64 threads per row of `out`.
void run_faults(py::handle out, py::handle ticket, uint32_t key) {
  const TensorView view = view_contiguous(out, DType::kI32, 2, "faults", "out");
  const TensorView count = view_contiguous(ticket, DType::kI32, 1, "faults", "ticket");
  const FaultArgs args{static_cast<int32_t*>(view.data), static_cast<uint32_t*>(count.data)};
  const Queue queue(out);
  launch({faults_kernels, key, view.size(0), 64, 128}, args, queue);
}

// Most source rows of a tile of a patch that is enlarged, wherever the tile begins.
int64_t source_rows(int64_t window, int64_t side, int taps) {
  const Resample mode = taps == 1   ? Resample::kNearest
                        : taps == 2 ? Resample::kBilinear
                                    : Resample::kBicubic;
  const float scale = resize_scale(window, side);
  const auto clamped = [&](int64_t row, int64_t tap) {
    const int64_t at = resample_tap(mode, true, row, scale, window).first + tap;
    return at < 0 ? 0 : at < window ? at : window - 1;
  };
  const int64_t rows = most_tile_rows(window, side, taps);
  int64_t most = 0;
  for (int64_t y0 = 0; y0 < side; ++y0) {
    const int64_t last = y0 + rows < side ? y0 + rows - 1 : side - 1;
    const int64_t sources = clamped(last, taps - 1) - clamped(y0, 0) + 1;
    most = sources > most ? sources : most;
  }
  return most;
}

// As the launcher of _cuda_jit asks for it: by name, with the address of the argument's address.
void launch_by_name(const std::string& op, const std::string& name, int64_t blocks,
                    uint32_t threads, uint32_t dynamic_shared, uintptr_t arguments) {
  for (const KernelTable* table :
       {&aggregate_kernels, &extract_patches_kernels, &extract_patches_backward_kernels,
        &extract_targets_kernels, &windows_kernels}) {
    for (size_t i = 0; op == table->op && i < table->count; ++i) {
      if (name != table->kernels[i].name) continue;
      const Launch launch{*table, table->kernels[i].key, blocks, threads, dynamic_shared};
      const Queue queue{py::none()};
      host::watch().allow_anywhere();  // the tensors are known to the other module
      launch_bytes(launch, *reinterpret_cast<const void* const*>(arguments), 0, queue);
      return;
    }
  }
  throw std::runtime_error(op + ": no kernel " + name);
}

// The struct that a launch hands to its kernel.
template <class Args>
Args struct_of(const std::string& bytes) {
  if (bytes.size() != sizeof(Args)) throw std::runtime_error("of another kernel");
  Args args;
  std::memcpy(&args, bytes.data(), sizeof(Args));
  return args;
}

}  // namespace

void bind_launcher(py::module_& m) {
  m.def("faults", &run_faults);
  m.def("source_rows", &source_rows);
  m.def("quotient", [](int32_t n, int32_t d) { return make_divider(d).quotient(n); });
  m.def("launch", &launch_by_name);
  m.def("bin_axes", [](const py::bytes& bytes) {
    const auto args = struct_of<WindowsArgs>(bytes);
    return py::make_tuple(args.cells.y, args.cells.x);
  });
  m.def("merge_tile", [](const py::bytes& bytes) {
    const auto args = struct_of<MergeArgs>(bytes);
    return py::make_tuple(args.tile_y, args.tile_x, args.tile_x_log2);
  });
  m.def("patch_tile", [](const py::bytes& bytes) {
    const auto args = struct_of<PatchArgs>(bytes);
    return py::make_tuple(args.tile_rows, args.part_width, args.group);
  });
  m.def("backward_band", [](const py::bytes& bytes) {
    return py::make_tuple(struct_of<PatchBackwardArgs>(bytes).band_rows, kBackwardColumns);
  });
  py::class_<BinAxis>(m, "BinAxis")
      .def(py::init(&make_bin_axis))
      .def_readonly("windows", &BinAxis::windows)
      .def_readonly("bins", &BinAxis::bins)
      .def_readonly("tile_bins", &BinAxis::tile_bins)
      .def_readonly("tile_px", &BinAxis::tile_px)
      .def_readonly("tiles", &BinAxis::tiles)
      .def("bin_of", &BinAxis::bin_of)
      .def("bin_start", &BinAxis::bin_start)
      .def("origin", &BinAxis::origin)
      .def("window_bins",
           [](const BinAxis& axis, int32_t i) {
             int32_t first, last;
             axis.window_bins(i, &first, &last);
             return py::make_tuple(first, last);
           })
      .def("overlapping", [](const BinAxis& axis, int32_t i) {
        int32_t first, last;
        axis.overlapping(i, &first, &last);
        return py::make_tuple(first, last);
      });
}

}  // namespace c2f::cuda
