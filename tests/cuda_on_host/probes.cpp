// What tests ask of the headers that host and device share.
#include <pybind11/pybind11.h>

#include "../../csrc/cuda/launch.h"
#include "../../kernels/cuda/window_bins.h"

namespace py = pybind11;

namespace c2f::cuda {

void bind_launcher(py::module_& m) {
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
