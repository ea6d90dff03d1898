#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "files.h"
#include "helpers.h"

namespace fs = std::filesystem;
using namespace infer;
using namespace infer::testing;

namespace {

constexpr std::size_t kFloat = sizeof(float);

// The largest file of this process, for as long as it lives: a disk that is full.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limited{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limited);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

}  // namespace

TEST_CASE("bins come in the order of their names - and nothing else does") {
  const ScratchFolder folder;
  for (const char* name : {"Case10.bin", "Case02.bin", "Case01.bin", ".Case03.bin", "cases.json", "Case04.bin.tmp"}) {
    put_text(folder / name, "x");
  }
  CHECK(list_bins(folder.path()) ==
        std::vector<fs::path>{folder / "Case01.bin", folder / "Case02.bin", folder / "Case10.bin"});
}

TEST_CASE("a missing folder - a file in its place and an empty folder are named") {
  const ScratchFolder folder;
  CHECK(error_of([&] { list_bins(folder / "none"); }) ==
        (folder / "none").string() + ": cannot be read as a folder: No such file or directory");
  put_text(folder / "file", "x");
  CHECK(error_of([&] { list_bins(folder / "file"); }) ==
        (folder / "file").string() + ": cannot be read as a folder: Not a directory");
  CHECK(error_of([&] { list_bins(folder.path()); }) ==
        folder.path().string() + ": holds no .bin file, expected one a case, as preprocess.py writes them");
}

TEST_CASE("every file of another size - or that is none - is found at once") {
  const ScratchFolder folder;
  put(folder / "good.bin", {1, 2});
  put(folder / "short.bin", std::vector<float>{1});
  put(folder / "long.bin", {1, 2, 3});
  put_text(folder / "odd.bin", "1234567");
  put_text(folder / "empty.bin", "");
  fs::create_directory(folder / "folder.bin");
  fs::create_symlink(folder / "gone", folder / "link.bin");
  const auto problems =
      find_problems({folder / "good.bin", folder / "short.bin", folder / "long.bin", folder / "odd.bin",
                     folder / "empty.bin", folder / "folder.bin", folder / "link.bin"},
                    2 * kFloat);
  REQUIRE(problems.size() == 6);
  CHECK(contains(problems[0], "short.bin: has 4 bytes, expected 8 for the model's input"));
  CHECK(contains(problems[1], "long.bin: has 12 bytes, expected 8"));
  CHECK(contains(problems[2], "odd.bin: has 7 bytes, expected 8"));
  CHECK(contains(problems[3], "empty.bin: has 0 bytes, expected 8"));
  CHECK(contains(problems[4], "folder.bin: is no file"));
  CHECK(contains(problems[5], "link.bin: "));
}

TEST_CASE("a file that may not be read is found before anything runs" * doctest::skip(::geteuid() == 0)) {
  const ScratchFolder folder;
  put(folder / "secret.bin", std::vector<float>{1});
  fs::permissions(folder / "secret.bin", fs::perms::none);
  const auto problems = find_problems({folder / "secret.bin"}, kFloat);
  REQUIRE(problems.size() == 1);
  CHECK(contains(problems[0], "secret.bin: cannot be read: Permission denied"));
}

TEST_CASE("floats are read as they were written") {
  const ScratchFolder folder;
  const std::vector<float> values{0.0F, -1.5F, 3.25e30F, 1e-40F};
  put(folder / "a.bin", values);
  std::vector<float> found(values.size());
  read_floats(folder / "a.bin", found.data(), found.size());
  CHECK(found == values);
  // 1.0F is 00 00 80 3f.
  put_text(folder / "one.bin", std::string("\0\0\x80\x3f", 4));
  read_floats(folder / "one.bin", found.data(), 1);
  CHECK(found[0] == 1.0F);
}

TEST_CASE("a file that is missing or changed its size since it was listed is named") {
  const ScratchFolder folder;
  std::vector<float> found(2);
  put(folder / "short.bin", std::vector<float>{1});
  put(folder / "long.bin", {1, 2, 3});
  CHECK(error_of([&] { read_floats(folder / "none.bin", found.data(), 2); }) ==
        (folder / "none.bin").string() + ": cannot be opened: No such file or directory");
  CHECK(contains(error_of([&] { read_floats(folder / "short.bin", found.data(), 2); }),
                 "short.bin: has 4 bytes, expected 8"));
  CHECK(contains(error_of([&] { read_floats(folder / "long.bin", found.data(), 2); }),
                 "long.bin: has 12 bytes, expected 8"));
  CHECK(contains(error_of([&] { read_floats(folder.path(), found.data(), 2); }), "cannot be read: Is a directory"));
}

TEST_CASE("a file appears whole - with the mode of any other file - and replaces the one before") {
  const ScratchFolder folder;
  put_text(folder / "a_0.bin", "what was there before, and longer");
  write_whole(folder / "a_0.bin", "new", 3);
  CHECK(text_of(folder / "a_0.bin") == "new");
  write_whole(folder / "empty", nullptr, 0);
  CHECK(text_of(folder / "empty").empty());
  CHECK(names_in(folder.path()) == std::set<std::string>{"a_0.bin", "empty"});
  const mode_t mask = ::umask(0);
  ::umask(mask);
  struct stat found {};
  REQUIRE(::stat((folder / "a_0.bin").c_str(), &found) == 0);
  CHECK((found.st_mode & 0777U) == (0666U & ~mask));
}

TEST_CASE("a file name alone is written into the present folder") {
  const ScratchFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  write_whole("here.txt", "x", 1);
  fs::current_path(before);
  CHECK(text_of(folder / "here.txt") == "x");
}

TEST_CASE("a full disk leaves the file before as it was - and nothing half written") {
  const ScratchFolder folder;
  put_text(folder / "a_0.bin", "before");
  const std::vector<float> values(1000);
  std::string message;
  {
    const FileSizeLimit limit(100);
    message = error_of([&] { write_whole(folder / "a_0.bin", values.data(), values.size() * kFloat); });
  }
  CHECK(contains(message, "a_0.bin"));
  CHECK(contains(message, "cannot be written: File too large"));
  CHECK(text_of(folder / "a_0.bin") == "before");
  CHECK(names_in(folder.path()) == std::set<std::string>{"a_0.bin"});
}

TEST_CASE("a result whose place is taken by a folder - or whose folder is gone - is named") {
  const ScratchFolder folder;
  fs::create_directories(folder / "a_0.bin" / fs::path("inside"));
  CHECK(contains(error_of([&] { write_whole(folder / "a_0.bin", "x", 1); }), "a_0.bin: cannot be put in place"));
  CHECK(contains(error_of([&] { write_whole(folder / "none/b_0.bin", "x", 1); }), "cannot be opened: No such file"));
  CHECK(names_in(folder.path()) == std::set<std::string>{"a_0.bin"});
}

TEST_CASE("folders are made - and left empty") {
  const ScratchFolder folder;
  make_folder(folder / "one/two");
  CHECK(fs::is_directory(folder / "one/two"));
  make_folder(folder / "one/two");
  CHECK(names_in(folder / "one/two").empty());
}

TEST_CASE("a folder that cannot be made or written to is named") {
  const ScratchFolder folder;
  put_text(folder / "file", "x");
  CHECK(contains(error_of([&] { make_folder(folder / "file"); }), "file: cannot be made as a folder"));
  CHECK(contains(error_of([&] { make_folder(folder / "file/below"); }), "below: cannot be made as a folder"));
  // Where root, too, cannot make files.
  CHECK(contains(error_of([] { make_folder("/proc/self"); }), "/proc/self: cannot be written to: "));
}

TEST_CASE("a file is removed - whether there is one or not and a full folder is not") {
  const ScratchFolder folder;
  put_text(folder / "a", "x");
  remove_file(folder / "a");
  remove_file(folder / "a");
  CHECK(names_in(folder.path()).empty());
  fs::create_directories(folder / "b/c");
  CHECK(contains(error_of([&] { remove_file(folder / "b"); }), "b: cannot be replaced"));
}
