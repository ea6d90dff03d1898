// The mean of tensors over the ranks of one machine, through memory that they share.
//
// A message through MindSpore's sockets copies each gradient several times in the kernel and in its buffers. Here a rank
// writes a piece of its tensors where the others see it, waits until they have done the same, and adds the pieces up,
// always in the order of the ranks: all get the same bits, in each run. Pieces are small enough to stay in the caches.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <string>

#include "entry.h"

namespace vnet {

namespace {

constexpr int64_t kPiece = 64 * 1024;  // floats
// While a rank adds up one piece the others may write the next; whoever goes on to the one after that has seen all
// others arrive at the next, so they are done with this one.
constexpr int kBuffers = 2;
constexpr int64_t kSpins = 4000;         // looks before a waiting rank sleeps between them
constexpr long kNap = 50'000;            // nanoseconds
constexpr int64_t kNapsPerCheck = 5000;  // between looks at whether the other process still lives

// What a rank says of itself; a cache line (and the neighbour that is fetched with it) of its own.
struct alignas(128) Place {
  std::atomic<uint64_t> arrived;    // pieces written so far
  std::atomic<uint64_t> processes;  // where its number counts: containers number their processes anew
  std::atomic<int> process;         // its number; 0 until it is there
};

struct Meeting {
  int rank = 0, ranks = 0;  // 0: the ranks have not met
  uint64_t pieces = 0;      // that this rank has written
  Place* places = nullptr;
  float* buffers = nullptr;
  double seconds = 0, waited = 0;

  float* piece(int of_rank) const { return buffers + (of_rank * kBuffers + pieces % kBuffers) * kPiece; }
};

Meeting meeting;

int64_t shared_bytes(int ranks) {
  return ranks * static_cast<int64_t>(sizeof(Place) + kBuffers * kPiece * sizeof(float));
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void relax() { __builtin_ia32_pause(); }

// The number of the namespace that processes are numbered in, 0 if there is no telling.
uint64_t numbering() {
  struct stat found;
  return stat("/proc/self/ns/pid", &found) == 0 ? static_cast<uint64_t>(found.st_ino) : 0;
}

// Whether the process of a rank is gone. One that this process cannot see counts as alive.
bool has_ended(const Place& place) {
  int process = place.process.load();
  return process > 0 && place.processes.load() == numbering() && kill(process, 0) != 0 && errno == ESRCH;
}

void wait_for(int rank) {
  const Place& place = meeting.places[rank];
  auto arrived = [&] { return place.arrived.load(std::memory_order_acquire) >= meeting.pieces; };
  for (int64_t spin = 0; spin < kSpins; ++spin) {
    if (arrived()) return;
    relax();
  }
  for (int64_t nap = 1; !arrived(); ++nap) {
    timespec time{0, kNap};
    nanosleep(&time, nullptr);
    if (nap % kNapsPerCheck == 0 && has_ended(place) && !arrived())
      throw std::runtime_error("rank " + std::to_string(rank) + " (process " + std::to_string(place.process.load()) +
                               ") has ended while rank " + std::to_string(meeting.rank) + " waited for its gradients");
  }
}

// The place in a list of tensors that counts as one long list of elements.
struct Cursor {
  int tensor = 0;
  int64_t offset = 0;
};

// Calls part(tensor, offset, start, count) for the parts of tensors that make up the next piece.
template <class Part>
void next_piece(const Call& call, int tensors, Cursor& cursor, Part part) {
  for (int64_t start = 0; cursor.tensor < tensors && start < kPiece;) {
    int64_t size = call.size(cursor.tensor), count = std::min(size - cursor.offset, kPiece - start);
    part(cursor.tensor, cursor.offset, start, count);
    start += count;
    cursor.offset += count;
    if (cursor.offset == size) cursor = {cursor.tensor + 1, 0};
  }
}

void mean_of_pieces(int64_t start, int64_t count, float* __restrict out) {
  float scale = 1.0f / static_cast<float>(meeting.ranks);
  const float *__restrict first = meeting.piece(0) + start, *__restrict second = meeting.piece(1) + start;
  if (meeting.ranks == 2) {
    for (int64_t i = 0; i < count; ++i) out[i] = (first[i] + second[i]) * scale;
    return;
  }
  for (int64_t i = 0; i < count; ++i) out[i] = first[i] + second[i];
  for (int rank = 2; rank < meeting.ranks; ++rank) {
    const float* __restrict other = meeting.piece(rank) + start;
    for (int64_t i = 0; i < count; ++i) out[i] += other[i];
  }
  for (int64_t i = 0; i < count; ++i) out[i] *= scale;
}

}  // namespace

}  // namespace vnet

extern "C" {

// Bytes of the file that so many ranks share.
int64_t VnetSharedBytes(int ranks) { return vnet::shared_bytes(ranks); }

// Maps that file, of zeros at first; 0, or the number of the system's error.
int VnetShare(const char* path, int rank, int ranks) {
  using namespace vnet;
  int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) return errno;
  void* memory = mmap(nullptr, static_cast<size_t>(shared_bytes(ranks)), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  int problem = memory == MAP_FAILED ? errno : 0;
  close(file);
  if (problem) return problem;
  // An earlier meeting's memory stays mapped: it is small, and an operator may be about to use it.
  meeting = {};
  meeting.rank = rank, meeting.ranks = ranks;
  meeting.places = static_cast<Place*>(memory);
  meeting.buffers = reinterpret_cast<float*>(meeting.places + ranks);
  meeting.places[rank].processes.store(numbering());
  meeting.places[rank].process.store(getpid());
  return 0;
}

// Copies the seconds in MeanOverRanks since the last call, and the part that was waiting, to out[0..2); starts anew.
void VnetRankSeconds(double* out) {
  out[0] = vnet::meeting.seconds, out[1] = vnet::meeting.waited;
  vnet::meeting.seconds = vnet::meeting.waited = 0;
}

}  // extern "C"

// Inputs: fp32 tensors, of the same sizes on all ranks. Outputs: as many, their means over the ranks. All ranks of the
// meeting have to call it, and return when all have.
VNET_ENTRY(MeanOverRanks) {
  using namespace vnet;
  int tensors = call.count / 2;
  if (meeting.ranks < 2) throw std::logic_error("the ranks have not met");
  for (int i = 0; i < tensors; ++i)
    if (call.count % 2 != 0 || call.size(i) != call.size(tensors + i) || call.size(i) < 1)
      throw std::invalid_argument("expected as many outputs as inputs, with the same sizes, none empty");
  double began = now();
  Cursor read, written;
  while (read.tensor < tensors) {
    ++meeting.pieces;
    float* own = meeting.piece(meeting.rank);
    next_piece(call, tensors, read, [&](int tensor, int64_t offset, int64_t start, int64_t count) {
      std::memcpy(own + start, call.get<float>(tensor) + offset, static_cast<size_t>(count) * sizeof(float));
    });
    meeting.places[meeting.rank].arrived.store(meeting.pieces, std::memory_order_release);
    double waiting = now();
    for (int rank = 0; rank < meeting.ranks; ++rank)
      if (rank != meeting.rank) wait_for(rank);
    meeting.waited += now() - waiting;
    next_piece(call, tensors, written, [&](int tensor, int64_t offset, int64_t start, int64_t count) {
      mean_of_pieces(start, count, call.get<float>(tensors + tensor) + offset);
    });
  }
  meeting.seconds += now() - began;
}
