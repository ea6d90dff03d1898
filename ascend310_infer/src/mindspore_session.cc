#include "mindspore_session.h"

#include <exception>
#include <string>
#include <vector>

#include "errors.h"
#include "include/api/context.h"
#include "include/api/model.h"
#include "include/api/serialization.h"
#include "include/api/types.h"

namespace infer {
namespace {

void check(const mindspore::Status& status, const std::string& what) {
  if (status.IsError()) {
    throw InferError(what + ": " + status.ToString());
  }
}

struct DestroyTensor {
  void operator()(mindspore::MSTensor* tensor) const { mindspore::MSTensor::DestroyTensorPtr(tensor); }
};

class MindSporeSession final : public InferenceSession {
 public:
  MindSporeSession(const std::string& path, std::uint32_t device_id) {
    mindspore::Graph graph;
    check(mindspore::Serialization::Load(path, mindspore::kMindIR, &graph),
          path + ": MindSpore " + mindspore::Version() + " cannot read it, expected a MINDIR of export.py");
    auto device = std::make_shared<mindspore::AscendDeviceInfo>();
    device->SetDeviceID(device_id);
    auto context = std::make_shared<mindspore::Context>();
    context->MutableDeviceInfo().push_back(device);
    check(model_.Build(mindspore::GraphCell(graph), context),
          path + ": cannot be built for Ascend device " + std::to_string(device_id));
    const std::vector<mindspore::MSTensor> inputs = model_.GetInputs();
    const std::vector<mindspore::MSTensor> outputs = model_.GetOutputs();
    check_ends(path, inputs.size(), outputs.size());
    input_shape_ = inputs.front().Shape();
    check_fixed(path, input_shape_);
    if (inputs.front().DataType() != mindspore::DataType::kNumberTypeFloat32 ||
        outputs.front().DataType() != mindspore::DataType::kNumberTypeFloat32) {
      throw InferError(path + ": takes or answers another type than float32; export the checkpoint again");
    }
    buffer_.resize(element_count(input_shape_));
    // Refers to the buffer: Predict takes each case from there, without a copy in between.
    tensor_.reset(mindspore::MSTensor::CreateRefTensor(inputs.front().Name(), mindspore::DataType::kNumberTypeFloat32,
                                                       input_shape_, buffer_.data(), buffer_.size() * sizeof(float),
                                                       false));
    if (tensor_ == nullptr) {
      throw InferError(path + ": MindSpore could not make a tensor of its input, " + to_string(input_shape_));
    }
  }

  const Shape& input_shape() const override { return input_shape_; }
  float* input() override { return buffer_.data(); }

  FloatView run() override {
    std::vector<mindspore::MSTensor> outputs;
    check(model_.Predict({*tensor_}, &outputs), "Predict failed");
    if (outputs.size() != 1 || outputs.front().DataType() != mindspore::DataType::kNumberTypeFloat32) {
      throw InferError("Predict gave " + std::to_string(outputs.size()) + " tensors, expected one of float32");
    }
    answer_ = outputs.front().Data();
    if (answer_ == nullptr) {
      throw InferError("Predict gave a tensor without data");
    }
    return {static_cast<const float*>(answer_.get()), outputs.front().DataSize() / sizeof(float)};
  }

 private:
  mindspore::Model model_;
  Shape input_shape_;
  std::vector<float> buffer_;
  std::unique_ptr<mindspore::MSTensor, DestroyTensor> tensor_;
  std::shared_ptr<const void> answer_;
};

}  // namespace

std::unique_ptr<InferenceSession> open_mindspore(const std::filesystem::path& model, std::uint32_t device_id) {
  try {
    return std::make_unique<MindSporeSession>(model.string(), device_id);
  } catch (const InferError&) {
    throw;
  } catch (const std::exception& error) {  // of MindSpore's inside
    throw InferError(model.string() + ": MindSpore failed: " + error.what());
  }
}

}  // namespace infer
