// Folders and files: tensors without a header, float32, little-endian, in C order. All errors name the path.
#ifndef ASCEND310_INFER_FILES_H
#define ASCEND310_INFER_FILES_H

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace infer {

// The `*.bin` of a folder in the order of their names; hidden ones are left out.
// Throws InferError: no such folder, it cannot be read, or there is none in it.
std::vector<std::filesystem::path> list_bins(const std::filesystem::path& folder);

// A sentence for each file that is none, cannot be opened, or is not of `bytes` bytes.
std::vector<std::string> find_problems(const std::vector<std::filesystem::path>& files, std::size_t bytes);

// Read a file of exactly `count` floats. Throws InferError: it cannot be read, or has another size.
void read_floats(const std::filesystem::path& file, float* target, std::size_t count);

// Write a file that appears whole or not at all: temporary file, fsync, rename. Throws InferError.
void write_whole(const std::filesystem::path& file, const void* data, std::size_t bytes);

// Make a folder, with those above it, and prove that files can be made in it. Throws InferError.
void make_folder(const std::filesystem::path& folder);

// Remove a file, if it is there. Throws InferError.
void remove_file(const std::filesystem::path& file);

}  // namespace infer

#endif
