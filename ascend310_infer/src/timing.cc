#include "timing.h"

#include <iomanip>
#include <numeric>
#include <sstream>

namespace infer {
namespace {

constexpr int kDecimals = 3;  // microseconds

// A case's name as a field of a CSV file (RFC 4180): in quotes where it holds a comma, a quote or the end of a line.
std::string field(const std::string& name) {
  if (name.find_first_of(",\"\r\n") == std::string::npos) {
    return name;
  }
  std::string quoted = "\"";
  for (const char letter : name) {
    quoted += letter == '"' ? "\"\"" : std::string(1, letter);
  }
  return quoted + '"';
}

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
    text << field(time.name) << ',' << time.read << ',' << time.network << ',' << time.write << '\n';
  }
  return text.str();
}

}  // namespace infer
