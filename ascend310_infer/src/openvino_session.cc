#include "openvino_session.h"

#include <algorithm>
#include <iterator>
#include <openvino/runtime/core.hpp>

#include "errors.h"

namespace infer {
namespace {

class OpenVinoSession final : public InferenceSession {
 public:
  explicit OpenVinoSession(const std::filesystem::path& path) {
    const std::shared_ptr<ov::Model> model = core_.read_model(path.string());
    check_ends(path.string(), model->inputs().size(), model->outputs().size());
    const ov::PartialShape axes = model->input().get_partial_shape();
    std::transform(axes.begin(), axes.end(), std::back_inserter(input_shape_),
                   [](const ov::Dimension& axis) { return axis.is_static() ? axis.get_length() : -1; });
    check_fixed(path.string(), input_shape_);
    const ov::element::Type taken = model->input().get_element_type();
    const ov::element::Type given = model->output().get_element_type();
    if (taken != ov::element::f32 || given != ov::element::f32) {
      throw InferError(path.string() + ": takes " + taken.to_string() + " and answers " + given.to_string() +
                       ", expected f32 both");
    }
    // Some processors would compute in bf16 of their own accord, which is not the answer of the checkpoint.
    ov::CompiledModel compiled = core_.compile_model(
        model, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
        ov::hint::inference_precision(ov::element::f32));
    request_ = compiled.create_infer_request();
    input_ = request_.get_input_tensor();
  }

  const Shape& input_shape() const override { return input_shape_; }
  float* input() override { return input_.data<float>(); }

  FloatView run() override {
    request_.infer();
    output_ = request_.get_output_tensor();
    return {output_.data<const float>(), output_.get_size()};
  }

 private:
  ov::Core core_;
  ov::InferRequest request_;
  ov::Tensor input_;
  ov::Tensor output_;
  Shape input_shape_;
};

}  // namespace

std::unique_ptr<InferenceSession> open_openvino(const std::filesystem::path& model) {
  try {
    return std::make_unique<OpenVinoSession>(model);
  } catch (const InferError&) {
    throw;
  } catch (const std::exception& error) {
    throw InferError(model.string() + ": OpenVINO " + ov::get_openvino_version().buildNumber +
                     " cannot load it, expected an ONNX file of export.py: " + error.what());
  }
}

}  // namespace infer
