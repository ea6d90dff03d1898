#include "runner.h"

#include <cmath>
#include <ostream>
#include <string>
#include <system_error>

#include "errors.h"
#include "files.h"

namespace infer {
namespace fs = std::filesystem;
namespace {

fs::path result_of(const fs::path& bin, const Folders& folders) {
  return folders.output / (bin.stem().string() + "_0.bin");
}

std::size_t count_not_finite(const float* values, std::size_t count) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    found += std::isfinite(values[i]) ? 0U : 1U;
  }
  return found;
}

void require_finite(const float* values, std::size_t count, const std::string& what) {
  if (const std::size_t found = count_not_finite(values, count); found != 0) {
    throw InferError(what + " has NaN or infinity in " + std::to_string(found) + " of " + std::to_string(count) +
                     " values");
  }
}

CaseTime run_case(InferenceSession& session, const fs::path& bin, const fs::path& result) {
  CaseTime time;
  time.name = bin.stem().string();
  const std::size_t count = element_count(session.input_shape());
  Stopwatch watch;
  read_floats(bin, session.input(), count);
  require_finite(session.input(), count, bin.string() + ": the input");
  time.read = watch.lap();
  FloatView answer{};
  try {
    answer = session.run();
  } catch (const std::exception& error) {  // of the SDK's own classes, too
    throw InferError(bin.string() + ": the device failed: " + error.what());
  }
  if (answer.size == 0) {
    throw InferError(bin.string() + ": the model's answer is empty; export the checkpoint again");
  }
  time.network = watch.lap();
  require_finite(answer.data, answer.size, bin.string() + ": the model's answer");
  write_whole(result, answer.data, answer.size * sizeof(float));
  time.write = watch.lap();
  return time;
}

void write_text(const fs::path& file, const std::string& text) { write_whole(file, text.data(), text.size()); }

}  // namespace

std::vector<fs::path> prepare(const Folders& folders) {
  std::vector<fs::path> cases = list_bins(folders.input);
  make_folder(folders.output);
  make_folder(folders.times);
  std::error_code error;
  if (fs::equivalent(folders.input, folders.output, error)) {
    throw InferError(folders.output.string() +
                     ": is the folder of the inputs too, so that results would be taken for cases; choose another");
  }
  return cases;
}

std::vector<CaseTime> run_cases(InferenceSession& session, const std::vector<fs::path>& cases, const Folders& folders,
                                std::ostream& log) {
  std::vector<std::string> problems = find_problems(cases, element_count(session.input_shape()) * sizeof(float));
  if (!problems.empty()) {
    throw ProblemList(problems);
  }
  for (const char* name : {kAverageFile, kTimesFile}) {
    remove_file(folders.times / name);
  }
  for (const fs::path& bin : cases) {
    remove_file(result_of(bin, folders));
  }
  std::vector<CaseTime> times;
  for (const fs::path& bin : cases) {
    try {
      const fs::path result = result_of(bin, folders);
      times.push_back(run_case(session, bin, result));
      log << result.string() << ": " << times.back().network << " ms" << std::endl;
    } catch (const InferError& error) {
      problems.emplace_back(error.what());
    }
  }
  if (!problems.empty()) {
    throw ProblemList(problems);
  }
  write_text(folders.times / kTimesFile, times_csv(times));
  write_text(folders.times / kAverageFile, average_line(times));
  log << average_line(times) << std::flush;
  return times;
}

}  // namespace infer
