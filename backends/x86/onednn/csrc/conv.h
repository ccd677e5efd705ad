// Convolutions of pictures whose channels lie last.
#ifndef BURNISH_ONEDNN_CONV_H_
#define BURNISH_ONEDNN_CONV_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "operation.h"
#include "threads.h"

namespace burnish::onednn {

// [N, H, W, C] with constant filters, divided by images or, within an image, by rows of the result
// (by columns, if the pictures have one row).
class Conv : public Operation {
 public:
  explicit Conv(Descriptor descriptor) : Operation(std::move(descriptor)) {}

 private:
  // One spatial axis of a piece: its input, its output and the padding before and after the input.
  struct Axis {
    int64_t input, output, before, after;
  };
  struct Sizes {
    int64_t images;
    Axis rows, columns;
  };
  void Run(const std::vector<const DLTensor*>& shapes, const Tensors& tensors) override;
  Layouts Typical(const std::vector<int64_t>& sizes) const override;
  std::unique_ptr<dnnl::primitive_desc> Describe(
      const Layouts& layouts, const dnnl::primitive_attr& attributes) const override;
  Sizes Whole(int64_t images, int64_t height, int64_t width) const;
  // The part of an axis (0 rows, 1 columns) that gives the outputs from `begin` to `end`, and where
  // its input begins.
  std::pair<Axis, int64_t> Part(int axis, const Axis& whole, int64_t begin, int64_t end) const;
  Layouts PieceLayouts(const Sizes& sizes) const;
  // `input` and `output` count pixels up to where the piece begins.
  void RunPiece(const Sizes& piece, int64_t input, int64_t output, const Tensors& tensors);
};

}  // namespace burnish::onednn

#endif  // BURNISH_ONEDNN_CONV_H_
