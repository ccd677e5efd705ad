#include "matmul.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace burnish::onednn {
namespace {

using Desc = dnnl::memory::desc;

// Below this many rows a piece reads its weights too seldom.
constexpr int64_t kLeastRows = 64;

int64_t Product(const int64_t* begin, const int64_t* end) {
  return std::accumulate(begin, end, int64_t{1}, std::multiplies<int64_t>());
}

std::unique_ptr<dnnl::primitive_desc> DescribeMatmul(const Layouts& layouts,
                                                     const dnnl::primitive_attr& attributes) {
  return std::make_unique<dnnl::matmul::primitive_desc>(
      Engine(), layouts.source, layouts.weights, layouts.bias, layouts.result, attributes);
}

}  // namespace

std::unique_ptr<dnnl::primitive_desc> Matmul::Describe(
    const Layouts& layouts, const dnnl::primitive_attr& attributes) const {
  return DescribeMatmul(layouts, attributes);
}

Layouts Matmul::PieceLayouts(int64_t rows, int64_t columns) const {
  Layouts layouts;
  layouts.source = Desc({rows, op_.depth}, op_.source, dnnl::memory::dims{op_.depth, 1});
  layouts.weights = Desc({op_.depth, columns}, op_.weights, dnnl::memory::format_tag::any);
  layouts.plain = Desc({op_.depth, columns}, op_.weights, dnnl::memory::dims{op_.columns, 1});
  if (op_.bias) {
    layouts.bias = Desc({1, columns}, op_.result, dnnl::memory::dims{columns, 1});
  }
  layouts.result = Desc({rows, columns}, op_.result, dnnl::memory::dims{op_.columns, 1});
  return layouts;
}

Layouts Matmul::Typical(const std::vector<int64_t>& sizes) const {
  return PieceLayouts(sizes.at(0), std::min(op_.columns, op_.column_block));
}

void Matmul::Run(const std::vector<const DLTensor*>& shapes, const Tensors& tensors) {
  const DLTensor* source = shapes[0];
  int64_t rows = Product(source->shape, source->shape + source->ndim - 1);
  int64_t blocks = (op_.columns + op_.column_block - 1) / op_.column_block;
  ParallelFor(2 * rows * op_.depth * op_.columns, [&](int task, Share share) {
    Pieces pieces(rows, kLeastRows, share);
    for (int64_t i = task; i < pieces.count * blocks; i += share.tasks) {
      int64_t begin = pieces.Begin(i / blocks);
      RunPiece(begin, pieces.End(i / blocks) - begin, i % blocks * op_.column_block, tensors);
    }
  });
}

void Matmul::RunPiece(int64_t row, int64_t rows, int64_t column, const Tensors& tensors) {
  int64_t columns = std::min(op_.column_block, op_.columns - column);
  char* weights = tensors.weights + column * SizeOf(op_.weights);
  Key key{rows, column, reinterpret_cast<int64_t>(weights)};
  std::shared_ptr<Prepared> piece =
      Find(key, [&] { return Prepare(PieceLayouts(rows, columns), weights); });
  std::vector<void*> data = Data(tensors.source + row * op_.depth * SizeOf(op_.source),
                                 piece->packed->get_data_handle(),
                                 op_.bias ? tensors.bias + column * SizeOf(op_.result) : nullptr,
                                 tensors,
                                 {row * op_.columns + column, column});
  piece->primitive->Run(data.data());
}

std::unique_ptr<dnnl::primitive_desc> BatchMatmul::Describe(
    const Layouts& layouts, const dnnl::primitive_attr& attributes) const {
  return DescribeMatmul(layouts, attributes);
}

Layouts BatchMatmul::PieceLayouts(const Sizes& sizes) const {
  auto [batch, rows, depth, columns] = sizes;
  Layouts layouts;
  layouts.source = Desc({batch, rows, depth}, op_.source, {rows * depth, depth, 1});
  dnnl::memory::dims strides{depth * columns, columns, 1};
  if (op_.transposed) strides = {depth * columns, 1, depth};
  layouts.weights = Desc({batch, depth, columns}, op_.weights, strides);
  layouts.result = Desc({batch, rows, columns}, op_.result, {rows * columns, columns, 1});
  return layouts;
}

Layouts BatchMatmul::Typical(const std::vector<int64_t>& sizes) const {
  return PieceLayouts({sizes.at(0), sizes.at(1), sizes.at(2), sizes.at(3)});
}

void BatchMatmul::Run(const std::vector<const DLTensor*>& shapes, const Tensors& tensors) {
  const DLTensor *a = shapes[0], *b = shapes[1], *result = shapes[2];
  Sizes whole{Product(a->shape, a->shape + a->ndim - 2), a->shape[a->ndim - 2],
              a->shape[a->ndim - 1], result->shape[result->ndim - 1]};
  if (Product(b->shape, b->shape + b->ndim - 2) == 1) {
    // One matrix for all batches: they are rows of one product.
    whole.rows *= whole.batch;
    whole.batch = 1;
  }
  ParallelFor(2 * whole.batch * whole.rows * whole.depth * whole.columns,
              [&](int task, Share share) {
    bool by_batch = whole.batch >= share.threads;
    Pieces pieces(by_batch ? whole.batch : whole.rows, by_batch ? 1 : kLeastRows, share);
    int64_t batches = by_batch ? 1 : whole.batch;
    for (int64_t i = task; i < pieces.count * batches; i += share.tasks) {
      int64_t begin = pieces.Begin(i / batches), count = pieces.End(i / batches) - begin;
      Sizes piece = whole;
      piece.batch = by_batch ? count : 1;
      if (!by_batch) piece.rows = count;
      RunPiece(by_batch ? begin : i % batches, by_batch ? 0 : begin, whole, piece, tensors);
    }
  });
}

void BatchMatmul::RunPiece(int64_t batch, int64_t row, const Sizes& whole, const Sizes& piece,
                           const Tensors& tensors) {
  Key key{piece.batch, piece.rows, piece.depth, piece.columns};
  std::shared_ptr<Prepared> found =
      Find(key, [&] { return Prepare(PieceLayouts(piece), nullptr); });
  int64_t first = batch * whole.rows + row;
  std::vector<void*> data =
      Data(tensors.source + first * whole.depth * SizeOf(op_.source),
           tensors.weights + batch * whole.depth * whole.columns * SizeOf(op_.weights), nullptr,
           tensors, {first * whole.columns, 0});
  found->primitive->Run(data.data());
}

}  // namespace burnish::onednn
