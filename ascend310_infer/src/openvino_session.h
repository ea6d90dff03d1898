// On a CPU, by OpenVINO.
#ifndef ASCEND310_INFER_OPENVINO_SESSION_H
#define ASCEND310_INFER_OPENVINO_SESSION_H

#include <filesystem>
#include <memory>

#include "session.h"

namespace infer {

// Load an ONNX file and prepare it for this processor, to be computed in fp32.
// Throws InferError that names it: missing, unreadable, or not of one fixed float32 input and one float32 output.
std::unique_ptr<InferenceSession> open_openvino(const std::filesystem::path& model);

}  // namespace infer

#endif
