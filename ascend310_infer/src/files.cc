#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>

#include "errors.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are stored as the processor has them: little-endian");

namespace infer {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail(const fs::path& path, const std::string& what, int code) {
  throw InferError(path.string() + ": " + what + ": " + std::generic_category().message(code));
}

// An open file. `close` tells of a late error; the destructor is for the way out on another one.
class File {
 public:
  File(fs::path path, int flags, mode_t mode = 0)
      : path_(std::move(path)), descriptor_(::open(path_.c_str(), flags | O_CLOEXEC, mode)) {
    if (descriptor_ < 0) {
      fail(path_, "cannot be opened", errno);
    }
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor_ >= 0) {
      ::close(descriptor_);
    }
  }

  // Return how many bytes there were, at most `bytes`.
  std::size_t read(void* target, std::size_t bytes) {
    std::size_t done = 0;
    while (done < bytes) {
      const ssize_t got = ::read(descriptor_, static_cast<char*>(target) + done, bytes - done);
      if (got == 0) {
        break;
      }
      if (got > 0) {
        done += static_cast<std::size_t>(got);
      } else if (errno != EINTR) {
        fail(path_, "cannot be read", errno);
      }
    }
    return done;
  }

  void write(const void* data, std::size_t bytes) {
    std::size_t done = 0;
    while (done < bytes) {
      const ssize_t put = ::write(descriptor_, static_cast<const char*>(data) + done, bytes - done);
      if (put >= 0) {
        done += static_cast<std::size_t>(put);
      } else if (errno != EINTR) {
        fail(path_, "cannot be written", errno);
      }
    }
  }

  void sync() {
    if (::fsync(descriptor_) != 0) {
      fail(path_, "cannot be brought to the disk", errno);
    }
  }

  void close() {
    const int descriptor = descriptor_;
    descriptor_ = -1;
    if (::close(descriptor) != 0) {
      fail(path_, "cannot be written", errno);
    }
  }

 private:
  fs::path path_;
  int descriptor_;  // -1 once it is closed
};

// A name that is removed on the way out, unless the file was renamed by then.
class Temporary {
 public:
  explicit Temporary(const fs::path& target)
      : path_(target.parent_path() / ("." + target.filename().string() + "." + std::to_string(::getpid()) + ".tmp")) {}
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() { ::unlink(path_.c_str()); }

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string wrong_size(const fs::path& file, std::uintmax_t found, std::size_t expected) {
  return file.string() + ": has " + std::to_string(found) + " bytes, expected " + std::to_string(expected) +
         " for the model's input; run preprocess.py with the bundle of this model";
}

}  // namespace

std::vector<fs::path> list_bins(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const fs::path& path = entry->path();
    if (path.extension() == ".bin" && path.filename().string().front() != '.') {
      found.push_back(path);
    }
  }
  if (error) {
    fail(folder, "cannot be read as a folder", error.value());
  }
  if (found.empty()) {
    throw InferError(folder.string() + ": holds no .bin file, expected one a case, as preprocess.py writes them");
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<std::string> find_problems(const std::vector<fs::path>& files, std::size_t bytes) {
  std::vector<std::string> problems;
  for (const fs::path& file : files) {
    std::error_code error;
    const bool regular = fs::is_regular_file(file, error);
    const std::uintmax_t size = regular ? fs::file_size(file, error) : 0;
    if (!regular || error) {
      problems.push_back(file.string() + ": " + (error ? error.message() : "is no file, expected one of floats"));
    } else if (size != bytes) {
      problems.push_back(wrong_size(file, size, bytes));
    } else if (::access(file.c_str(), R_OK) != 0) {
      problems.push_back(file.string() + ": cannot be read: " + std::generic_category().message(errno));
    }
  }
  return problems;
}

void read_floats(const fs::path& file, float* target, std::size_t count) {
  File source(file, O_RDONLY);
  const std::size_t expected = count * sizeof(float);
  std::size_t found = source.read(target, expected);
  char beyond = 0;
  found += source.read(&beyond, 1);
  if (found != expected) {
    std::error_code error;
    const std::uintmax_t size = fs::file_size(file, error);
    throw InferError(wrong_size(file, error ? found : size, expected));
  }
}

void write_whole(const fs::path& file, const void* data, std::size_t bytes) {
  const fs::path target = fs::absolute(file);
  const Temporary temporary(target);
  constexpr mode_t mode = 0666;  // less the umask
  File written(temporary.path(), O_WRONLY | O_CREAT | O_TRUNC, mode);
  written.write(data, bytes);
  written.sync();
  written.close();
  if (::rename(temporary.path().c_str(), target.c_str()) != 0) {
    fail(file, "cannot be put in place", errno);
  }
  File(target.parent_path(), O_RDONLY | O_DIRECTORY).sync();
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error || !fs::is_directory(folder, error)) {
    fail(folder, "cannot be made as a folder", error ? error.value() : ENOTDIR);
  }
  // Tried, not asked for: root may write where the file system still refuses.
  const Temporary trial(folder / "writable");
  constexpr mode_t mode = 0600;
  try {
    File(trial.path(), O_WRONLY | O_CREAT, mode).close();
  } catch (const InferError& problem) {
    throw InferError(folder.string() + ": cannot be written to: " + problem.what());
  }
}

void remove_file(const fs::path& file) {
  std::error_code error;
  fs::remove(file, error);
  if (error) {
    fail(file, "cannot be replaced", error.value());
  }
}

}  // namespace infer
