// Matrix products.
#ifndef BURNISH_ONEDNN_MATMUL_H_
#define BURNISH_ONEDNN_MATMUL_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "operation.h"
#include "threads.h"

namespace burnish::onednn {

// [..., K] times constant weights [K, N], divided by rows and by fixed blocks of columns.
class Matmul : public Operation {
 public:
  explicit Matmul(Descriptor descriptor) : Operation(std::move(descriptor)) {}

 private:
  void Run(const std::vector<const DLTensor*>& shapes, const Tensors& tensors) override;
  Layouts Typical(const std::vector<int64_t>& sizes) const override;
  std::unique_ptr<dnnl::primitive_desc> Describe(
      const Layouts& layouts, const dnnl::primitive_attr& attributes) const override;
  Layouts PieceLayouts(int64_t rows, int64_t columns) const;
  void RunPiece(int64_t row, int64_t rows, int64_t column, const Tensors& tensors);
};

// [..., M, K] times [..., K, N] or [..., N, K], both computed, divided by batches or by rows.
class BatchMatmul : public Operation {
 public:
  explicit BatchMatmul(Descriptor descriptor) : Operation(std::move(descriptor)) {}

 private:
  struct Sizes {
    int64_t batch, rows, depth, columns;
  };
  void Run(const std::vector<const DLTensor*>& shapes, const Tensors& tensors) override;
  Layouts Typical(const std::vector<int64_t>& sizes) const override;
  std::unique_ptr<dnnl::primitive_desc> Describe(
      const Layouts& layouts, const dnnl::primitive_attr& attributes) const override;
  Layouts PieceLayouts(const Sizes& sizes) const;
  // `batch` and `row` are where the piece of the size `piece` begins.
  void RunPiece(int64_t batch, int64_t row, const Sizes& whole, const Sizes& piece,
                const Tensors& tensors);
};

}  // namespace burnish::onednn

#endif  // BURNISH_ONEDNN_MATMUL_H_
