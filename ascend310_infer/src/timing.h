// How long each case took, and the files that say so.
#ifndef ASCEND310_INFER_TIMING_H
#define ASCEND310_INFER_TIMING_H

#include <chrono>
#include <string>
#include <vector>

namespace infer {

// Milliseconds of one case.
struct CaseTime {
  std::string name;
  double read = 0;
  double network = 0;
  double write = 0;
};

// Milliseconds since it was made, or since the last `lap`.
class Stopwatch {
 public:
  double lap() {
    const Clock::time_point now = Clock::now();
    const std::chrono::duration<double, std::milli> passed = now - start_;
    start_ = now;
    return passed.count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

// The line that people know: "NN inference cost average time: T ms of infer_count N", of the network alone.
std::string average_line(const std::vector<CaseTime>& times);

// A header, and a line a case: name, and milliseconds of reading, network and writing.
std::string times_csv(const std::vector<CaseTime>& times);

}  // namespace infer

#endif
