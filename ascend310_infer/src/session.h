// A network on some device: one block of floats in, one out. The rest of the program knows no more of devices.
#ifndef ASCEND310_INFER_SESSION_H
#define ASCEND310_INFER_SESSION_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace infer {

using Shape = std::vector<std::int64_t>;

// Floats that someone else owns.
struct FloatView {
  const float* data;
  std::size_t size;
};

class InferenceSession {
 public:
  InferenceSession() = default;
  InferenceSession(const InferenceSession&) = delete;
  InferenceSession& operator=(const InferenceSession&) = delete;
  virtual ~InferenceSession() = default;

  // Shape of the input, all axes fixed.
  virtual const Shape& input_shape() const = 0;

  // Where the caller puts the input before `run`, in C order: no copy is made on the way. Stays the same.
  virtual float* input() = 0;

  // Compute the output of the present input. The view holds until the next call.
  // Throws any std::exception, without the case's name, which the session does not know.
  virtual FloatView run() = 0;
};

std::size_t element_count(const Shape& shape);

// "1 x 1 x ? x ? x ?": axes of no fixed size are question marks.
std::string to_string(const Shape& shape);

// Throws InferError that names `model`, unless it has one input and one output.
void check_ends(const std::string& model, std::size_t inputs, std::size_t outputs);

// Throws InferError that names `model`, unless each axis of its input is fixed.
void check_fixed(const std::string& model, const Shape& shape);

}  // namespace infer

#endif
