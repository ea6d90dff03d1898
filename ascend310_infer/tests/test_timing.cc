#include <thread>

#include "helpers.h"
#include "timing.h"

using namespace infer;

TEST_CASE("the average is the network's alone - in milliseconds") {
  // (10 + 20.5 + 3) / 3 = 11.1666…
  const std::vector<CaseTime> times{{"Case00", 100, 10, 100}, {"Case01", 100, 20.5, 100}, {"Case02", 100, 3, 100}};
  CHECK(average_line(times) == "NN inference cost average time: 11.167 ms of infer_count 3\n");
  CHECK(average_line({}) == "NN inference cost average time: 0.000 ms of infer_count 0\n");
}

TEST_CASE("each case has a line of the table") {
  CHECK(times_csv({{"Case00", 1.5, 1234.56789, 0.25}, {"Case01", 0, 2, 3}}) ==
        "case,read_ms,network_ms,write_ms\nCase00,1.500,1234.568,0.250\nCase01,0.000,2.000,3.000\n");
}

TEST_CASE("names that would break a table are in quotes") {
  CHECK(times_csv({{"a, b", 1, 2, 3}, {"the \"c\"", 1, 2, 3}}) ==
        "case,read_ms,network_ms,write_ms\n\"a, b\",1.000,2.000,3.000\n\"the \"\"c\"\"\",1.000,2.000,3.000\n");
}

TEST_CASE("a lap starts where the last one ended") {
  Stopwatch watch;
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  CHECK(watch.lap() >= 30);
  CHECK(watch.lap() < 30);
}
