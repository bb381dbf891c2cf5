#include "merge_args.h"

#include "views.h"

namespace py = pybind11;

namespace c2f {
namespace {

constexpr const char* kOp = "aggregate";

MergeRule rule_of(const std::string& rule) {
  if (rule == "paper") return MergeRule::kPaper;
  if (rule == "normalized") return MergeRule::kNormalized;
  require(rule == "official", kOp, "rule must be \"paper\", \"normalized\" or \"official\", got \"",
          rule, "\"");
  return MergeRule::kOfficial;
}

Image fine_of(const TensorView& fine, int64_t patches) {
  const Image view = image_of(fine, kOp, "fine");
  if (!is_float(view.dtype)) {
    throw py::type_error("aggregate: fine must be float16/bfloat16/float32, got " +
                         torch_name(view.dtype));
  }
  require(view.B == patches, kOp, "fine must hold B*n = ", patches, " patches, got ", view.B);
  require(view.C == 1 || view.C == 2, kOp, "fine must have 1 or 2 channels, got ", view.C);
  require(patches == 0 || (view.H >= 1 && view.W >= 1), kOp, "fine must not be empty, got ",
          Sides{view.H, view.W});
  return view;
}

void set_output(const TensorView& view, bool labels_given, AggregateParams* params) {
  const bool labels = view.dtype == DType::kU8;
  if (!labels && view.dtype != DType::kF32) {
    throw py::type_error("aggregate: out must be uint8 labels or float32 scores, got " +
                         torch_name(view.dtype));
  }
  require(view.contiguous(), kOp, "out must be contiguous");
  const Seg& coarse = params->coarse;
  if (labels) {
    require(view.ndim == 3 && view.shape[0] == coarse.B && view.shape[1] == params->H &&
                view.shape[2] == params->W,
            kOp, "out must be of shape [B, H, W] for labels");
    params->labels = static_cast<uint8_t*>(view.data);
    params->labels_given = labels_given;
    return;
  }
  require(!labels_given, kOp, "labels can only be given for an output of labels");
  require(view.ndim == 4 && view.shape[0] == coarse.B && view.shape[1] == coarse.N &&
              view.shape[2] == params->H && view.shape[3] == params->W,
          kOp, "out must be of shape [B, N, H, W] for scores");
  params->probs = static_cast<float*>(view.data);
}

}  // namespace

AggregateParams aggregate_params(const TensorView& coarse, const TensorView& fine,
                                 const TensorView& origins, const TensorView& num, int64_t window,
                                 std::string_view table, int64_t H, int64_t W,
                                 const std::string& rule, const TensorView& out,
                                 bool labels_given) {
  AggregateParams params{};
  params.coarse = seg_of(coarse, kOp, "coarse");
  require(params.coarse.is_logits, kOp, "coarse must be logits [B, N, h, w], got a label map");
  require(params.coarse.h >= 1 && params.coarse.w >= 1, kOp, "coarse must not be empty, got ",
          Sides{params.coarse.h, params.coarse.w});
  require(H >= params.coarse.h && W >= params.coarse.w, kOp,
          "size must be at least the logits' own, got ", Sides{H, W}, " for ",
          Sides{params.coarse.h, params.coarse.w});
  require(window >= 1, kOp, "window must be at least 1, got ", window);
  params.H = H;
  params.W = W;
  params.windows = windows_of(origins, num, params.coarse.B, window, H, W, kOp);
  params.fine = fine_of(fine, params.coarse.B * params.windows.n);
  params.classes = class_table_of(table, kOp);
  params.rule = rule_of(rule);
  set_output(out, labels_given, &params);
  return params;
}

}  // namespace c2f
