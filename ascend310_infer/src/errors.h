// Errors that the person at the keyboard can mend; they name the file, what was found, what was expected.
#ifndef ASCEND310_INFER_ERRORS_H
#define ASCEND310_INFER_ERRORS_H

#include <stdexcept>
#include <string>
#include <vector>

namespace infer {

class InferError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// All problems at once, a line each.
class ProblemList : public InferError {
 public:
  explicit ProblemList(const std::vector<std::string>& problems) : InferError(joined(problems)) {}

 private:
  static std::string joined(const std::vector<std::string>& problems) {
    std::string text = std::to_string(problems.size()) + (problems.size() == 1 ? " problem:" : " problems:");
    for (const std::string& problem : problems) {
      text += "\n  - " + problem;
    }
    return text;
  }
};

}  // namespace infer

#endif
