#include "conv.h"

#include <algorithm>

namespace burnish::onednn {
namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;

// Below this many pixels a piece reads its weights too seldom.
constexpr int64_t kLeastPixels = 64;

}  // namespace

std::unique_ptr<dnnl::primitive_desc> Conv::Describe(
    const Layouts& layouts, const dnnl::primitive_attr& attributes) const {
  const Window& window = op_.window;
  dnnl::memory::dims strides(window.strides.begin(), window.strides.end());
  // oneDNN counts the taps that are left out.
  dnnl::memory::dims dilations{window.dilations[0] - 1, window.dilations[1] - 1};
  return std::make_unique<dnnl::convolution_forward::primitive_desc>(
      Engine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      layouts.source, layouts.weights, layouts.bias, layouts.result, strides, dilations,
      layouts.before, layouts.after, attributes);
}

Conv::Sizes Conv::Whole(int64_t images, int64_t height, int64_t width) const {
  const Window& window = op_.window;
  auto axis = [&](int i, int64_t size) {
    int64_t before = window.pads[i], after = window.pads[i + 2];
    int64_t extent = (window.kernel[i] - 1) * window.dilations[i] + 1;
    return Axis{size, (size + before + after - extent) / window.strides[i] + 1, before, after};
  };
  return {images, axis(0, height), axis(1, width)};
}

std::pair<Conv::Axis, int64_t> Conv::Part(int axis, const Axis& whole, int64_t begin,
                                          int64_t end) const {
  const Window& window = op_.window;
  int64_t extent = (window.kernel[axis] - 1) * window.dilations[axis] + 1;
  int64_t first = begin * window.strides[axis] - whole.before;
  int64_t last = (end - 1) * window.strides[axis] - whole.before + extent - 1;
  int64_t low = std::max<int64_t>(first, 0), high = std::min(last, whole.input - 1);
  return {{high - low + 1, end - begin, low - first, last - high}, low};
}

Layouts Conv::PieceLayouts(const Sizes& sizes) const {
  int64_t filters = op_.channels_out / op_.groups;
  const std::array<int64_t, 2>& kernel = op_.window.kernel;
  dnnl::memory::dims dims{filters, op_.channels_in, kernel[0], kernel[1]};
  if (op_.groups > 1) dims.insert(dims.begin(), op_.groups);
  const auto& [images, rows, columns] = sizes;
  Layouts layouts;
  layouts.source = Desc({images, op_.groups * op_.channels_in, rows.input, columns.input},
                        op_.source, Tag::nhwc);
  layouts.weights = Desc(dims, op_.weights, Tag::any);
  layouts.plain = Desc(dims, op_.weights, op_.groups > 1 ? Tag::goihw : Tag::oihw);
  if (op_.bias) layouts.bias = Desc({op_.channels_out}, op_.result, Tag::a);
  layouts.result = Desc({images, op_.channels_out, rows.output, columns.output}, op_.result,
                        Tag::nhwc);
  layouts.before = {rows.before, columns.before};
  layouts.after = {rows.after, columns.after};
  return layouts;
}

Layouts Conv::Typical(const std::vector<int64_t>& sizes) const {
  return PieceLayouts(Whole(sizes.at(0), sizes.at(1), sizes.at(2)));
}

void Conv::Run(const std::vector<const DLTensor*>& shapes, const Tensors& tensors) {
  const int64_t* shape = shapes[0]->shape;
  Sizes whole = Whole(shape[0], shape[1], shape[2]);
  int64_t in_image = shape[1] * shape[2], out_image = whole.rows.output * whole.columns.output;
  // Rows and, in pictures of one row, columns lie one after another in memory.
  int axis = whole.rows.input == 1 && whole.rows.output == 1 ? 1 : 0;
  const Axis& divided = axis == 0 ? whole.rows : whole.columns;
  int64_t in_line = axis == 0 ? shape[2] : 1, out_line = axis == 0 ? whole.columns.output : 1;
  int64_t taps = op_.window.kernel[0] * op_.window.kernel[1] * op_.channels_in;
  ParallelFor(2 * shape[0] * out_image * op_.channels_out * taps, [&](int task, Share share) {
    if (shape[0] >= share.threads) {
      Pieces pieces(shape[0], 1, share);
      for (int64_t i = task; i < pieces.count; i += share.tasks) {
        Sizes piece = whole;
        int64_t begin = pieces.Begin(i);
        piece.images = pieces.End(i) - begin;
        RunPiece(piece, begin * in_image, begin * out_image, tensors);
      }
      return;
    }
    Pieces pieces(divided.output, (kLeastPixels + out_line - 1) / out_line, share);
    for (int64_t i = task; i < pieces.count * shape[0]; i += share.tasks) {
      int64_t image = i / pieces.count, begin = pieces.Begin(i % pieces.count);
      auto [part, low] = Part(axis, divided, begin, pieces.End(i % pieces.count));
      Sizes piece = whole;
      piece.images = 1;
      (axis == 0 ? piece.rows : piece.columns) = part;
      RunPiece(piece, image * in_image + low * in_line, image * out_image + begin * out_line,
               tensors);
    }
  });
}

void Conv::RunPiece(const Sizes& piece, int64_t input, int64_t output, const Tensors& tensors) {
  const auto& [images, rows, columns] = piece;
  Key key{images,         rows.input,      rows.output,    rows.before,   rows.after,
          columns.input,  columns.output,  columns.before, columns.after,
          reinterpret_cast<int64_t>(tensors.weights)};
  std::shared_ptr<Prepared> found =
      Find(key, [&] { return Prepare(PieceLayouts(piece), tensors.weights); });
  int64_t channels = op_.groups * op_.channels_in;
  std::vector<void*> data =
      Data(tensors.source + input * channels * SizeOf(op_.source),
           found->packed->get_data_handle(), tensors.bias, tensors,
           {output * op_.channels_out, 0});
  found->primitive->Run(data.data());
}

}  // namespace burnish::onednn
