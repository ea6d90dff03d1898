// A stand-in for the part of MindSpore's C++ API that the session uses, with the signatures of 2.0.0: a model that
// answers 2 x. `card` says what it pretends and what was asked of it.
#ifndef ASCEND310_INFER_TESTS_STAND_IN_MODEL_H
#define ASCEND310_INFER_TESTS_STAND_IN_MODEL_H

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace mindspore {

enum ModelType : std::uint32_t { kMindIR = 0 };
enum class DataType : int { kNumberTypeFloat16 = 42, kNumberTypeFloat32 = 43 };

namespace stand_in {

struct Card {
  bool readable = true;  // the MINDIR
  bool present = true;   // the device
  bool throws = false;   // Build
  bool works = true;     // Predict
  bool answers = true;   // with data
  std::size_t inputs = 1;
  std::size_t outputs = 1;
  std::vector<std::int64_t> shape{1, 1, 2, 2};
  DataType type = DataType::kNumberTypeFloat32;
  std::string loaded;
  int built_for = -1;
  int copies = 0;  // of inputs
};

inline Card& card() {
  static Card state;
  return state;
}

}  // namespace stand_in

inline std::string Version() { return "2.0.0"; }

class Status {
 public:
  Status() = default;
  explicit Status(std::string message) : message_(std::move(message)) {}
  bool IsError() const { return !message_.empty(); }
  std::string ToString() const { return message_; }

 private:
  std::string message_;
};

class MSTensor {
 public:
  MSTensor(std::string name, enum DataType type, std::vector<std::int64_t> shape, const void* data, std::size_t bytes)
      : name_(std::move(name)), type_(type), shape_(std::move(shape)), data_(data, [](const void*) {}), bytes_(bytes) {
    stand_in::card().copies += data != nullptr ? 1 : 0;
  }
  static MSTensor* CreateRefTensor(const std::string& name, enum DataType type, const std::vector<std::int64_t>& shape,
                                   const void* data, std::size_t bytes, bool own_data = true) noexcept {
    auto* tensor = new MSTensor(name, type, shape, nullptr, bytes);
    tensor->data_ = std::shared_ptr<const void>(data, [](const void*) {});
    return own_data ? nullptr : tensor;
  }
  static void DestroyTensorPtr(MSTensor* tensor) noexcept { delete tensor; }
  void hold(std::shared_ptr<std::vector<float>> values) {
    bytes_ = values->size() * sizeof(float);
    const float* const data = values->data();
    data_ = std::shared_ptr<const void>(std::move(values), data);
  }

  std::string Name() const { return name_; }
  enum DataType DataType() const { return type_; }
  const std::vector<std::int64_t>& Shape() const { return shape_; }
  std::shared_ptr<const void> Data() const { return data_; }
  std::size_t DataSize() const { return bytes_; }

 private:
  std::string name_;
  enum DataType type_;
  std::vector<std::int64_t> shape_;
  std::shared_ptr<const void> data_;
  std::size_t bytes_;
};

class Graph {};

class GraphCell {
 public:
  explicit GraphCell(const Graph& /*graph*/) {}
};

class AscendDeviceInfo {
 public:
  void SetDeviceID(std::uint32_t device_id) { device_id_ = static_cast<int>(device_id); }
  int device_id() const { return device_id_; }

 private:
  int device_id_ = -1;
};

class Context {
 public:
  std::vector<std::shared_ptr<AscendDeviceInfo>>& MutableDeviceInfo() { return devices_; }

 private:
  std::vector<std::shared_ptr<AscendDeviceInfo>> devices_;
};

class Serialization {
 public:
  static Status Load(const std::string& file, ModelType /*type*/, Graph* /*graph*/) {
    stand_in::card().loaded = file;
    return stand_in::card().readable ? Status() : Status("no MINDIR");
  }
};

class Model {
 public:
  Status Build(const GraphCell& /*graph*/, const std::shared_ptr<Context>& context) {
    if (stand_in::card().throws) {
      throw std::runtime_error("inside");
    }
    stand_in::card().built_for = context->MutableDeviceInfo().at(0)->device_id();
    return stand_in::card().present ? Status() : Status("no device");
  }
  std::vector<MSTensor> GetInputs() { return tensors(stand_in::card().inputs); }
  std::vector<MSTensor> GetOutputs() { return tensors(stand_in::card().outputs); }
  Status Predict(const std::vector<MSTensor>& inputs, std::vector<MSTensor>* outputs) {
    if (!stand_in::card().works) {
      return Status("device error 507899");
    }
    *outputs = GetOutputs();
    const auto* const first = static_cast<const float*>(inputs.at(0).Data().get());
    auto answer = std::make_shared<std::vector<float>>(first, first + inputs[0].DataSize() / sizeof(float));
    for (float& value : *answer) {
      value *= 2;
    }
    if (stand_in::card().answers) {
      outputs->at(0).hold(answer);
    }
    return Status();
  }

 private:
  static std::vector<MSTensor> tensors(std::size_t count) {
    return std::vector<MSTensor>(count, MSTensor("x", stand_in::card().type, stand_in::card().shape, nullptr, 0));
  }
};

}  // namespace mindspore

#endif
