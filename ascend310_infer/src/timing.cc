#include "timing.h"

#include <iomanip>
#include <numeric>
#include <sstream>

namespace infer {
namespace {

constexpr int kDecimals = 3;  // microseconds

}  // namespace

std::string average_line(const std::vector<CaseTime>& times) {
  const double sum = std::accumulate(times.begin(), times.end(), 0.0,
                                     [](double total, const CaseTime& time) { return total + time.network; });
  std::ostringstream text;
  text << std::fixed << std::setprecision(kDecimals) << "NN inference cost average time: "
       << (times.empty() ? 0.0 : sum / static_cast<double>(times.size())) << " ms of infer_count " << times.size()
       << '\n';
  return text.str();
}

std::string times_csv(const std::vector<CaseTime>& times) {
  std::ostringstream text;
  text << "case,read_ms,network_ms,write_ms\n" << std::fixed << std::setprecision(kDecimals);
  for (const CaseTime& time : times) {
    text << time.name << ',' << time.read << ',' << time.network << ',' << time.write << '\n';
  }
  return text.str();
}

}  // namespace infer
