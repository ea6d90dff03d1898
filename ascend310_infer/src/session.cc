#include "session.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "errors.h"

namespace infer {

std::size_t element_count(const Shape& shape) {
  return static_cast<std::size_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
}

std::string to_string(const Shape& shape) {
  std::string text;
  for (const std::int64_t size : shape) {
    text += (text.empty() ? "" : " x ") + (size > 0 ? std::to_string(size) : "?");
  }
  return text;
}

void check_ends(const std::string& model, std::size_t inputs, std::size_t outputs) {
  if (inputs != 1 || outputs != 1) {
    throw InferError(model + ": has " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) +
                     " outputs, expected one of each, as export.py writes it");
  }
}

void check_fixed(const std::string& model, const Shape& shape) {
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t size) { return size <= 0; })) {
    throw InferError(model + ": its input is " + to_string(shape) +
                     ", expected a fixed shape, since a .bin does not say its own; export the checkpoint without "
                     "dynamic axes");
  }
}

}  // namespace infer
