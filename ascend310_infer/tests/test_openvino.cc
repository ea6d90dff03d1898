#include <openvino/core/graph_util.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/multiply.hpp>
#include <openvino/op/parameter.hpp>

#include "helpers.h"
#include "openvino_session.h"

namespace fs = std::filesystem;
using namespace infer;
using namespace infer::testing;

namespace {

// A model that answers 2 x, in OpenVINO's own format, which it reads as it does ONNX.
fs::path doubling(const ScratchFolder& folder, const ov::PartialShape& shape,
                  ov::element::Type type = ov::element::f32) {
  const auto input = std::make_shared<ov::op::v0::Parameter>(type, shape);
  const auto two = ov::op::v0::Constant::create(type, ov::Shape{}, {2});
  const auto answer = std::make_shared<ov::op::v1::Multiply>(input, two);
  const fs::path file = folder / "net.xml";
  const auto model = std::make_shared<ov::Model>(ov::OutputVector{answer}, ov::ParameterVector{input});
  ov::save_model(model, file.string(), false);
  return file;
}

}  // namespace

TEST_CASE("a model answers each input that is put before it") {
  const ScratchFolder folder;
  const auto session = open_openvino(doubling(folder, {1, 1, 2, 1, 2}));
  CHECK(session->input_shape() == Shape{1, 1, 2, 1, 2});
  float* const input = session->input();
  for (const float first : {1.0F, -7.5F}) {
    const std::vector<float> values{first, 2, 3, 1.0F / 3};
    std::copy(values.begin(), values.end(), session->input());
    const FloatView answer = session->run();
    CHECK(session->input() == input);
    CHECK(std::vector<float>(answer.data, answer.data + answer.size) == std::vector<float>{2 * first, 4, 6, 2.0F / 3});
  }
}

TEST_CASE("models that cannot be run are refused by name") {
  const ScratchFolder folder;
  put_text(folder / "damaged.onnx", "this is no model");
  CHECK(contains(error_of([&] { open_openvino(folder / "damaged.onnx"); }), "damaged.onnx: OpenVINO "));
  CHECK(contains(error_of([&] { open_openvino(folder / "none.onnx"); }), "none.onnx: OpenVINO "));
  CHECK(contains(error_of([&] { open_openvino(doubling(folder, {1, -1, 2})); }),
                 "net.xml: its input is 1 x ? x 2, expected a fixed shape"));
  CHECK(contains(error_of([&] { open_openvino(doubling(folder, {1, 2}, ov::element::i32)); }),
                 "net.xml: takes i32 and answers i32, expected f32 both"));
}
