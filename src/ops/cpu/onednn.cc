// oneDNN chooses its own layouts, in which it is fast; what comes in another one is reordered on the way in and out,
// through scratch memory. All that doesn't depend on the data (generated code, reorders) is made once for each form
// of convolution and kept in a cache of bounded size, so the memory stays flat however many sizes a run meets.
#include "onednn.h"

#include <algorithm>
#include <stdexcept>

#include "scratch.h"
#include "threads.h"

#if defined(VNET_ONEDNN)

#include <dnnl.hpp>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

namespace vnet {

namespace {

using dnnl::memory;
using Tag = memory::format_tag;
using Key = std::vector<int64_t>;

constexpr size_t kCachedPlans = 256;

dnnl::engine& engine() {
  static dnnl::engine cpu = [] {
    // The plans below are the only cache; oneDNN's own would keep what they drop.
    dnnl::set_primitive_cache_capacity(0);
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return cpu;
}

// oneDNN takes its number of threads from OpenMP, for the calling thread, when it makes a primitive and when it runs.
class ThreadLimit {
 public:
  ThreadLimit() : before_(omp_get_max_threads()) { omp_set_num_threads(threads()); }
  ~ThreadLimit() { omp_set_num_threads(before_); }
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int before_;
};

memory::desc describe(const Key& dims, Tag tag) { return {dims, memory::data_type::f32, tag}; }

Tag plain_tag(size_t rank) { return rank == 5 ? Tag::abcde : Tag::abcd; }

Tag activation_tag(const Convolution& convolution, bool is_src) {
  bool plain = convolution.layout == Layout::plain || (is_src && convolution.plain_src);
  if (plain) return plain_tag(convolution.src.size());
  return convolution.src.size() == 5 ? Tag::nCdhw16c : Tag::nChw16c;
}

// Of the weights in the caller's memory.
memory::desc describe_weights(const Convolution& form) {
  if (form.weight_channels == 0) return describe(form.weights, plain_tag(form.weights.size()));
  Key strides(form.weights.size(), 1);
  for (size_t i = strides.size() - 1; i > 0; --i) {
    strides[i - 1] = strides[i] * (i == 1 ? form.weight_channels : form.weights[i]);
  }
  return {form.weights, memory::data_type::f32, strides};
}

int64_t floats_of(const memory::desc& desc) {
  return static_cast<int64_t>((desc.get_size() + sizeof(float) - 1) / sizeof(float));
}

// A volume or the weights: the layout of the caller's memory, that of oneDNN's, and the way between them. Where
// oneDNN's volume is larger, `offset` says where the caller's lies in it, and the rest is filled with zeros.
struct Operand {
  bool is_result, moved, padded;
  int64_t inside_floats;
  memory outside, inside, place;
  dnnl::reorder move, fetch;  // fetch: brings what the result is added to

  Operand(bool is_result, const memory::desc& outside_desc, const memory::desc& inside_desc,
          const Key& offset)
      : is_result(is_result), moved(outside_desc != inside_desc),
        padded(outside_desc.get_dims() != inside_desc.get_dims()), inside_floats(floats_of(inside_desc)),
        outside(outside_desc, engine(), DNNL_MEMORY_NONE), inside(inside_desc, engine(), DNNL_MEMORY_NONE),
        place(padded ? inside_desc.submemory_desc(outside_desc.get_dims(), offset) : inside_desc, engine(),
              DNNL_MEMORY_NONE) {
    if (moved) move = is_result ? dnnl::reorder(place, outside) : dnnl::reorder(outside, place);
    if (moved && is_result) fetch = dnnl::reorder(outside, place);
  }

  void attach(float* data) {
    float* own = moved ? scratch(inside_floats) : data;
    outside.set_data_handle(data);
    inside.set_data_handle(own);
    place.set_data_handle(own);
    if (padded) {
      share(inside_floats,
            [=](int64_t first, int64_t last, int) { std::fill(own + first, own + last, 0.0f); });
    }
  }

  void run_move(dnnl::stream& stream) {
    if (!moved) return;
    if (is_result) {
      move.execute(stream, place, outside);
    } else {
      move.execute(stream, outside, place);
    }
  }
};

// Everything to run one form of convolution.
struct Plan {
  dnnl::primitive primitive;
  std::vector<Operand> operands;  // src, weights, dst
  memory bias, scratchpad;
  int64_t scratchpad_floats = 0;
  std::unordered_map<int, memory> arguments;
};

// What oneDNN offers for a pass when the activations are laid out as the caller's, or, `free`, as it likes.
dnnl::primitive_desc offer(Pass pass, const Convolution& form, bool has_bias, bool free) {
  const auto direct = dnnl::algorithm::convolution_direct;
  memory::desc src = describe(form.src, free ? Tag::any : activation_tag(form, true));
  memory::desc dst = describe(form.dst, free ? Tag::any : activation_tag(form, false));
  memory::desc weights = describe(form.weights, Tag::any), bias = describe({form.weights[0]}, Tag::a);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (form.sum) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  using Forward = dnnl::convolution_forward::primitive_desc;
  if (pass == Pass::forward && has_bias) {
    return Forward(engine(), dnnl::prop_kind::forward_training, direct, src, weights, bias, dst, form.stride,
                   form.begin, form.end, attributes);
  }
  Forward forward(engine(), dnnl::prop_kind::forward_training, direct, src, weights, dst, form.stride, form.begin,
                  form.end, attributes);
  if (pass == Pass::forward) return forward;
  if (pass == Pass::backward_data) {
    return dnnl::convolution_backward_data::primitive_desc(engine(), direct, src, weights, dst, form.stride,
                                                           form.begin, form.end, forward, attributes);
  }
  return dnnl::convolution_backward_weights::primitive_desc(engine(), direct, src, weights, dst, form.stride,
                                                            form.begin, form.end, forward, attributes);
}

// Whether it is one of oneDNN's kernels that are generated for the processor, not one of its slow ways out.
bool is_fast(const dnnl::primitive_desc& offered) {
  std::string name = offered.impl_info_str();
  return name.find("ref") == std::string::npos && name.find("gemm") == std::string::npos;
}

// The same convolution of a volume with the padding's zeros in it.
Convolution with_padding_inside(Convolution form) {
  for (size_t i = 0; i < form.stride.size(); ++i) {
    form.src[i + 2] += form.begin[i] + form.end[i];
    form.begin[i] = form.end[i] = 0;
  }
  return form;
}

// The best offer; `form` becomes with_padding_inside(form) where that gives the better one.
dnnl::primitive_desc choose(Pass pass, Convolution& form, bool has_bias) {
  if (form.layout == Layout::blocked) {
    // The caller's layout spares the reorders. AVX2 kernels have blocks of eight channels: those need them.
    try {
      dnnl::primitive_desc offered = offer(pass, form, has_bias, false);
      if (is_fast(offered)) return offered;
    } catch (const dnnl::error&) {
    }
  }
  dnnl::primitive_desc offered = offer(pass, form, has_bias, true);
  if (pass == Pass::backward_weights && !is_fast(offered)) {
    // The weights' gradients of volumes that are padded in depth (AVX2) or smaller than the kernel are left to matrix
    // products, ten times slower.
    Convolution larger = with_padding_inside(form);
    dnnl::primitive_desc other = offer(pass, larger, has_bias, true);
    if (is_fast(other)) {
      form = larger;
      return other;
    }
  }
  return offered;
}

std::unique_ptr<Plan> make_plan(Pass pass, const Convolution& form, bool has_bias) {
  Convolution inner = form;
  dnnl::primitive_desc chosen = choose(pass, inner, has_bias);
  Key offset = {0, 0};
  for (size_t i = 0; i < form.stride.size(); ++i) offset.push_back(form.begin[i] - inner.begin[i]);
  auto plan = std::make_unique<Plan>();
  plan->primitive = dnnl::primitive(chosen);
  int arguments[] = {pass == Pass::backward_data ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC,
                     pass == Pass::backward_weights ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS,
                     pass == Pass::forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST};
  memory::desc outside[] = {describe(form.src, activation_tag(form, true)), describe_weights(form),
                            describe(form.dst, activation_tag(form, false))};
  int result = pass == Pass::forward ? 2 : pass == Pass::backward_data ? 0 : 1;
  for (int i = 0; i < 3; ++i) {
    plan->operands.emplace_back(i == result, outside[i],
                                chosen.query_md(dnnl::query::exec_arg_md, arguments[i]), offset);
    plan->arguments.emplace(arguments[i], plan->operands.back().inside);
  }
  if (has_bias) {
    plan->bias = memory(describe({form.weights[0]}, Tag::a), engine(), DNNL_MEMORY_NONE);
    plan->arguments.emplace(DNNL_ARG_BIAS, plan->bias);
  }
  plan->scratchpad_floats = floats_of(chosen.scratchpad_desc());
  if (plan->scratchpad_floats > 0) {
    plan->scratchpad = memory(chosen.scratchpad_desc(), engine(), DNNL_MEMORY_NONE);
    plan->arguments.emplace(DNNL_ARG_SCRATCHPAD, plan->scratchpad);
  }
  return plan;
}

// The plans used last, newest in front.
class PlanCache {
 public:
  Plan& get(Pass pass, const Convolution& form, bool has_bias) {
    Key key = {static_cast<int64_t>(pass), static_cast<int64_t>(form.layout), has_bias, threads(),
               form.plain_src, form.weight_channels, form.sum};
    for (const Key* part : {&form.src, &form.weights, &form.dst, &form.stride, &form.begin, &form.end}) {
      key.insert(key.end(), part->begin(), part->end());
    }
    auto found = index_.find(key);
    if (found != index_.end()) {
      plans_.splice(plans_.begin(), plans_, found->second);
    } else {
      plans_.emplace_front(key, make_plan(pass, form, has_bias));
      index_[key] = plans_.begin();
      if (plans_.size() > kCachedPlans) {
        index_.erase(plans_.back().first);
        plans_.pop_back();
      }
    }
    return *plans_.front().second;
  }

 private:
  std::list<std::pair<Key, std::unique_ptr<Plan>>> plans_;
  std::map<Key, std::list<std::pair<Key, std::unique_ptr<Plan>>>::iterator> index_;
};

void check(const Convolution& form) {
  size_t axes = form.stride.size();
  bool fits = (axes == 2 || axes == 3) && form.begin.size() == axes && form.end.size() == axes &&
              form.src.size() == axes + 2 && form.weights.size() == axes + 2 && form.dst.size() == axes + 2 &&
              form.src[0] == form.dst[0] && form.src[1] == form.weights[1] && form.dst[1] == form.weights[0];
  for (size_t i = 0; fits && i < axes; ++i) {
    int64_t span = form.src[i + 2] + form.begin[i] + form.end[i] - form.weights[i + 2];
    fits = form.stride[i] > 0 && form.begin[i] >= 0 && form.end[i] >= 0 && span >= 0 &&
           span / form.stride[i] + 1 == form.dst[i + 2];
  }
  for (size_t i = 0; fits && i < axes + 2; ++i) fits = form.src[i] > 0 && form.weights[i] > 0 && form.dst[i] > 0;
  if (!fits) throw std::invalid_argument("convolution: sizes of input, weights and output don't fit one another");
}

}  // namespace

void convolve(Pass pass, const Convolution& convolution, const ConvolutionData& data, float* result) {
  ScratchScope scope;
  static PlanCache cache;
  check(convolution);
  ThreadLimit limit;
  Plan& plan = cache.get(pass, convolution, pass == Pass::forward && data.bias != nullptr);
  dnnl::stream stream(engine());
  const float* given[] = {data.src, data.weights, data.dst};
  for (int i = 0; i < 3; ++i) {
    Operand& operand = plan.operands[i];
    operand.attach(operand.is_result ? result : const_cast<float*>(given[i]));
    if (!operand.is_result) operand.run_move(stream);
    if (operand.is_result && operand.moved && convolution.sum) {
      operand.fetch.execute(stream, operand.outside, operand.place);
    }
  }
  if (plan.bias) plan.bias.set_data_handle(const_cast<float*>(data.bias));
  if (plan.scratchpad_floats > 0) plan.scratchpad.set_data_handle(scratch(plan.scratchpad_floats));
  plan.primitive.execute(stream, plan.arguments);
  for (Operand& operand : plan.operands) {
    if (operand.is_result) operand.run_move(stream);
  }
  stream.wait();
}

}  // namespace vnet

#else

namespace vnet {

void convolve(Pass, const Convolution&, const ConvolutionData&, float*) {
  throw std::invalid_argument("convolution: the CPU kernels were built without oneDNN");
}

}  // namespace vnet

#endif
