// From a folder of .bin files to a folder of results, through a session.
#ifndef ASCEND310_INFER_RUNNER_H
#define ASCEND310_INFER_RUNNER_H

#include <filesystem>
#include <iosfwd>
#include <vector>

#include "session.h"
#include "timing.h"

namespace infer {

constexpr char kAverageFile[] = "test_perform_static.txt";
constexpr char kTimesFile[] = "cases.csv";

struct Folders {
  std::filesystem::path input;   // CASE.bin
  std::filesystem::path output;  // CASE_0.bin
  std::filesystem::path times;   // kAverageFile and kTimesFile
};

// The cases of `folders.input`, with the other folders made: all that can go wrong before a model is loaded.
// Throws InferError.
std::vector<std::filesystem::path> prepare(const Folders& folders);

// Run each case and write its result, and at the end the times. Nothing is computed or replaced unless every case has
// the model's size. Then what an earlier run left of these cases is removed, so that no old answer passes for a new
// one; a case that fails does not keep the others from being done.
// Throws ProblemList: wrong or unreadable files; NaN or infinity in input or output; the device or the disk failed.
std::vector<CaseTime> run_cases(InferenceSession& session, const std::vector<std::filesystem::path>& cases,
                                const Folders& folders, std::ostream& log);

}  // namespace infer

#endif
