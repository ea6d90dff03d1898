// Run an exported network on every .bin of a folder; see CMakeLists.txt for how to build, --help for the arguments.
// Exit codes: 0 done, 1 wrong arguments or a defect, 2 something that can be mended, with one message that says what.

#include <gflags/gflags.h>

#include <cstdint>
#include <exception>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "errors.h"
#include "runner.h"
#ifdef WITH_MINDSPORE
#include "mindspore_session.h"
#endif
#ifdef WITH_OPENVINO
#include "openvino_session.h"
#endif

DEFINE_string(mindir_path, "", "the model: MINDIR for Ascend310, ONNX for CPU");
DEFINE_string(model_path, "", "the same as --mindir_path");
DEFINE_string(input_path, "", "folder of CASE.bin files, as preprocess.py writes them");
DEFINE_string(output_path, "result_Files", "folder for the results, CASE_0.bin");
DEFINE_string(time_path, "time_Result", "folder for test_perform_static.txt and cases.csv");
DEFINE_string(device, "Ascend310", "Ascend310 or CPU");
DEFINE_uint32(device_id, 0, "number of the Ascend device");

namespace {

constexpr int kUserError = 2;

// The model's file, which exists.
std::filesystem::path model_path() {
  if (FLAGS_mindir_path.empty() == FLAGS_model_path.empty()) {
    throw infer::InferError("expected the model by either --mindir_path or --model_path");
  }
  std::filesystem::path path = FLAGS_mindir_path.empty() ? FLAGS_model_path : FLAGS_mindir_path;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    throw infer::InferError(path.string() + ": no such file, expected the model of export.py");
  }
  return path;
}

std::unique_ptr<infer::InferenceSession> open_session(const std::filesystem::path& model) {
#ifdef WITH_MINDSPORE
  if (FLAGS_device == "Ascend310") {
    return infer::open_mindspore(model, FLAGS_device_id);
  }
#endif
#ifdef WITH_OPENVINO
  if (FLAGS_device == "CPU") {
    return infer::open_openvino(model);
  }
#endif
  if (FLAGS_device == "Ascend310") {
    throw infer::InferError(model.string() +
                            ": --device Ascend310 is not in this program, since MindSpore with its C++ API was not "
                            "found when it was built; set MINDSPORE_PATH and build again");
  }
  if (FLAGS_device == "CPU") {
    throw infer::InferError(model.string() +
                            ": --device CPU is not in this program, since OpenVINO was not found when it was built; "
                            "pip install -r requirements-cpp.txt and build again");
  }
  throw infer::InferError("--device is '" + FLAGS_device + "', expected Ascend310 or CPU");
}

void run() {
  if (FLAGS_input_path.empty()) {
    throw infer::InferError("expected the folder of the cases by --input_path");
  }
  const infer::Folders folders{FLAGS_input_path, FLAGS_output_path, FLAGS_time_path};
  const std::filesystem::path model = model_path();
  const auto cases = infer::prepare(folders);
  infer::Stopwatch watch;
  const auto session = open_session(model);
  std::cout << model.string() << ": loaded for " << FLAGS_device << " in " << watch.lap() << " ms, input "
            << infer::to_string(session->input_shape()) << std::endl;
  infer::run_cases(*session, cases, folders, std::cout);
}

// Whether --help was asked for. gflags' own answer to it would be of all its inner flags, and exit code 1.
bool helped(const char* program) {
  std::string asked;
  if (!gflags::GetCommandLineOption("help", &asked) || asked != "true") {
    return false;
  }
  gflags::ShowUsageWithFlagsRestrict(program, "main.cc");
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    gflags::SetUsageMessage("--mindir_path FILE --input_path FOLDER [--output_path FOLDER] [--time_path FOLDER] "
                            "[--device {Ascend310,CPU}] [--device_id N]");
    gflags::ParseCommandLineNonHelpFlags(&argc, &argv, true);
    if (helped(argv[0])) {
      return 0;
    }
    if (argc > 1) {
      throw infer::InferError(std::string("'") + argv[1] + "' is no --option; see --help");
    }
    run();
    return 0;
  } catch (const infer::InferError& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return kUserError;
  } catch (const std::exception& error) {
    std::cerr << "error: " << FLAGS_mindir_path << FLAGS_model_path << ": unexpected: " << error.what() << std::endl;
    return 1;
  }
}
