// On Ascend 310, by MindSpore's C++ API. Not run here: there was no device.
#ifndef ASCEND310_INFER_MINDSPORE_SESSION_H
#define ASCEND310_INFER_MINDSPORE_SESSION_H

#include <cstdint>
#include <filesystem>
#include <memory>

#include "session.h"

namespace infer {

// Load a MINDIR and build it for an Ascend 310.
// Throws InferError that names it: unreadable, not built, or not of one fixed float32 input and one float32 output.
std::unique_ptr<InferenceSession> open_mindspore(const std::filesystem::path& model, std::uint32_t device_id);

}  // namespace infer

#endif
