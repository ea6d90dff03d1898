// The session for Ascend 310 against tests/stand_in: what it asks of MindSpore, and what it makes of each refusal.
#include "helpers.h"
#include "include/api/model.h"
#include "mindspore_session.h"

using namespace infer;
using namespace infer::testing;
using mindspore::stand_in::Card;
using mindspore::stand_in::card;

TEST_CASE("a model is built for the card asked for and answers each input") {
  card() = Card{};
  const auto session = open_mindspore("net.mindir", 3);
  CHECK(card().loaded == "net.mindir");
  CHECK(card().built_for == 3);
  CHECK(session->input_shape() == Shape{1, 1, 2, 2});
  for (const float first : {1.0F, -7.5F}) {
    const std::vector<float> values{first, 2, 3, 4};
    std::copy(values.begin(), values.end(), session->input());
    const FloatView answer = session->run();
    CHECK(std::vector<float>(answer.data, answer.data + answer.size) == std::vector<float>{2 * first, 4, 6, 8});
  }
  CHECK(card().copies == 0);
}

TEST_CASE("every refusal of MindSpore names the model") {
  const auto refusal = [](const Card& state) {
    card() = state;
    return error_of([] { open_mindspore("net.mindir", 0); });
  };
  Card state;
  state.readable = false;
  CHECK(contains(refusal(state),
                 "net.mindir: MindSpore 2.0.0 cannot read it, expected a MINDIR of export.py: no MINDIR"));
  state = {};
  state.present = false;
  CHECK(contains(refusal(state), "net.mindir: cannot be built for Ascend device 0: no device"));
  state = {};
  state.throws = true;
  CHECK(contains(refusal(state), "net.mindir: MindSpore failed: inside"));
  state = {};
  state.shape = {1, 1, -1, -1};
  CHECK(contains(refusal(state), "net.mindir: its input is 1 x 1 x ? x ?, expected a fixed shape"));
  state = {};
  state.inputs = 0;
  CHECK(contains(refusal(state), "net.mindir: has 0 inputs and 1 outputs"));
  state = {};
  state.outputs = 2;
  CHECK(contains(refusal(state), "net.mindir: has 1 inputs and 2 outputs"));
  state = {};
  state.type = mindspore::DataType::kNumberTypeFloat16;
  CHECK(contains(refusal(state), "net.mindir: takes or answers another type than float32"));
}

TEST_CASE("a failing Predict and an answer without data are errors") {
  card() = Card{};
  const auto session = open_mindspore("net.mindir", 0);
  card().works = false;
  CHECK(error_of([&] { session->run(); }) == "Predict failed: device error 507899");
  card().works = true;
  card().outputs = 2;
  CHECK(contains(error_of([&] { session->run(); }), "Predict gave 2 tensors, expected one of float32"));
  card().outputs = 1;
  card().answers = false;
  CHECK(contains(error_of([&] { session->run(); }), "Predict gave a tensor without data"));
}
