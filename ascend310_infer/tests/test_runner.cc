#include "runner.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>

#include "helpers.h"

namespace fs = std::filesystem;
using namespace infer;
using namespace infer::testing;

namespace {

// Answers 2 x + 1. Of an input that starts with 99 it throws, of one with 98 it answers NaN, of one with 97 nothing.
class DoublingSession final : public InferenceSession {
 public:
  const Shape& input_shape() const override { return shape_; }
  float* input() override { return input_.data(); }
  FloatView run() override {
    ++runs;
    if (input_[0] == 99) {
      throw std::out_of_range("the card caught fire");
    }
    std::transform(input_.begin(), input_.end(), output_.begin(), [](float x) { return 2 * x + 1; });
    if (input_[0] == 98) {
      output_[1] = std::nanf("");
      output_[2] = std::numeric_limits<float>::infinity();
    }
    return {output_.data(), input_[0] == 97 ? 0 : output_.size()};
  }

  int runs = 0;

 private:
  Shape shape_{1, 1, 1, 2, 2};
  std::vector<float> input_ = std::vector<float>(4);
  std::vector<float> output_ = std::vector<float>(4);
};

// Cases in a folder of its own, with places for what comes of them.
struct Workplace {
  ScratchFolder folder;
  Folders folders{folder / "in", folder / "out", folder / "times"};
  DoublingSession session;
  std::ostringstream log;

  Workplace() { fs::create_directory(folders.input); }
  void put_case(const std::string& name, float first) const {
    put(folders.input / (name + ".bin"), {first, 2, 3, 4});
  }
  std::vector<CaseTime> run() { return run_cases(session, prepare(folders), folders, log); }
};

}  // namespace

TEST_CASE("every case is run and written - and the times say so") {
  Workplace place;
  place.put_case("Case01", 10);
  place.put_case("Case00", -1);
  const std::vector<CaseTime> times = place.run();
  CHECK(names_in(place.folders.output) == std::set<std::string>{"Case00_0.bin", "Case01_0.bin"});
  CHECK(floats_of(place.folders.output / "Case00_0.bin") == std::vector<float>{-1, 5, 7, 9});
  CHECK(floats_of(place.folders.output / "Case01_0.bin") == std::vector<float>{21, 5, 7, 9});
  REQUIRE(times.size() == 2);
  CHECK(times[0].name == "Case00");
  CHECK(times[1].name == "Case01");
  CHECK(text_of(place.folders.times / "test_perform_static.txt") == average_line(times));
  CHECK(text_of(place.folders.times / "cases.csv") == times_csv(times));
  CHECK(contains(place.log.str(), "Case01_0.bin: "));
  CHECK(contains(place.log.str(), average_line(times)));
}

TEST_CASE("an empty folder ends before anything is made") {
  Workplace place;
  CHECK(contains(error_of([&] { place.run(); }), "in: holds no .bin file"));
  CHECK(names_in(place.folder.path()) == std::set<std::string>{"in"});
}

TEST_CASE("results may not lie among the cases") {
  Workplace place;
  place.put_case("Case00", 1);
  place.folders.output = place.folder / "in/../in";
  CHECK(contains(error_of([&] { place.run(); }), "is the folder of the inputs too"));
}

TEST_CASE("unwritable places are found before a model is loaded") {
  Workplace place;
  place.put_case("Case00", 1);
  place.folders.output = "/proc/self";
  CHECK(contains(error_of([&] { prepare(place.folders); }), "/proc/self: cannot be written to"));
  place.folders.output = place.folder / "out";
  place.folders.times = place.folder / "in/Case00.bin";
  CHECK(contains(error_of([&] { prepare(place.folders); }), "Case00.bin: cannot be made as a folder"));
}

TEST_CASE("wrong sizes are all told at once - nothing runs - and earlier results stay") {
  Workplace place;
  place.put_case("Case00", 1);
  place.run();
  put(place.folders.input / "Case01.bin", {1, 2, 3});
  put(place.folders.input / "Case02.bin", {1, 2, 3, 4, 5});
  const std::string message = error_of([&] { place.run(); });
  CHECK(contains(message, "2 problems:"));
  CHECK(contains(message, "Case01.bin: has 12 bytes, expected 16"));
  CHECK(contains(message, "Case02.bin: has 20 bytes, expected 16"));
  CHECK(place.session.runs == 1);
  CHECK(fs::exists(place.folders.output / "Case00_0.bin"));
  CHECK(fs::exists(place.folders.times / kAverageFile));
}

TEST_CASE("cases that fail are all named - the others are done - and no old answer or time is left of them") {
  Workplace place;
  for (const char* name : {"Case00", "Case01", "Case02", "Case03"}) {
    place.put_case(name, 1);
  }
  place.run();
  place.put_case("Case00", 98);
  place.put_case("Case01", 99);
  place.put_case("Case02", std::nanf(""));
  place.put_case("Case03", 5);
  const std::string message = error_of([&] { place.run(); });
  CHECK(contains(message, "3 problems:"));
  CHECK(contains(message, "Case00.bin: the model's answer has NaN or infinity in 2 of 4 values"));
  CHECK(contains(message, "Case01.bin: the device failed: the card caught fire"));
  CHECK(contains(message, "Case02.bin: the input has NaN or infinity in 1 of 4 values"));
  CHECK(names_in(place.folders.output) == std::set<std::string>{"Case03_0.bin"});
  CHECK(floats_of(place.folders.output / "Case03_0.bin") == std::vector<float>{11, 5, 7, 9});
  CHECK(names_in(place.folders.times).empty());
}

TEST_CASE("an empty answer is none") {
  Workplace place;
  place.put_case("Case00", 97);
  CHECK(contains(error_of([&] { place.run(); }), "Case00.bin: the model's answer is empty"));
  CHECK(names_in(place.folders.output).empty());
}

TEST_CASE("a result that cannot take its place is told before anything runs") {
  Workplace place;
  place.put_case("Case00", 1);
  fs::create_directories(place.folders.output / "Case00_0.bin" / "inside");
  CHECK(contains(error_of([&] { place.run(); }), "Case00_0.bin: cannot be replaced"));
  CHECK(place.session.runs == 0);
}

TEST_CASE("models of other inputs and outputs are refused by name") {
  CHECK(element_count({1, 1, 4, 3, 2}) == 24);
  CHECK(to_string(Shape{1, 1, -1, 3, 0}) == "1 x 1 x ? x 3 x ?");
  check_ends("net.onnx", 1, 1);
  check_fixed("net.onnx", {1, 1, 2});
  CHECK(contains(error_of([] { check_ends("net.onnx", 2, 1); }), "net.onnx: has 2 inputs and 1 outputs"));
  CHECK(contains(error_of([] { check_ends("net.onnx", 1, 3); }), "net.onnx: has 1 inputs and 3 outputs"));
  CHECK(contains(error_of([] { check_fixed("net.mindir", {1, 1, -1, -1}); }),
                 "net.mindir: its input is 1 x 1 x ? x ?, expected a fixed shape"));
}
