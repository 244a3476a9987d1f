#include "runtime/artifact/kernel_formats.h"

#include "formats.h"
#include "runtime/artifact/programs.h"

#include <functional>
#include <string>
#include <string_view>

namespace moeplan {

namespace {

std::string nameOf(fb::Format format) {
  const FormatInfo *info = findFormat(uint32_t(format));
  return info ? std::string(info->name) : "of no format";
}

fb::Format formatOf(const fb::Artifact &artifact, uint32_t segment) {
  return artifact.segments()->Get(segment)->format();
}

/// Whether `binding` is a segment with a shape of one extent.
bool isVector(const fb::Artifact &artifact, const fb::Binding &binding) {
  if (binding.kind() != fb::BindingKind::segment)
    return false;
  const auto *shape = artifact.segments()->Get(binding.index())->shape();
  return shape && shape->size() == 1;
}

using DispatchVisitor =
    std::function<Status(const fb::Program &, const fb::Dispatch &, const fb::Kernel &)>;

Status forEachDispatch(const fb::Artifact &artifact, const fb::Plan &plan,
                       const DispatchVisitor &visit) {
  for (const fb::Program *program : allPrograms(plan))
    for (uint32_t i = 0; i < program->commands()->size(); ++i)
      if (program->commands_type()->GetEnum<fb::Command>(i) == fb::Command::Dispatch) {
        const auto *dispatch = program->commands()->GetAs<fb::Dispatch>(i);
        MOEPLAN_TRY(visit(*program, *dispatch, *artifact.kernels()->Get(dispatch->kernel())));
      }
  return {};
}

Status checkExperts(const fb::Artifact &artifact, const fb::Plan &plan, const fb::Kernel &kernel,
                    uint32_t layer) {
  const std::optional<ExpertAccess> access = expertAccessOf(kernel);
  if (!access)
    return unsupported("kernel '" + kernel.symbol()->str() +
                       "' reads experts in formats that it does not state");
  const uint32_t numExperts = artifact.model()->num_experts();
  for (uint32_t e = 0; e < numExperts; ++e) {
    const fb::Expert &expert = *plan.experts()->Get(layer * numExperts + e);
    const uint32_t segments[] = {expert.w1(), expert.w3(), expert.w2()};
    for (Linear linear : kLinears) {
      const auto index = static_cast<int>(linear);
      const fb::Format format = formatOf(artifact, segments[index]);
      if (access->reads(linear) && !access->has(format))
        return unsupported("no kernel for layers." + std::to_string(layer) + ".experts." +
                           std::to_string(e) + "." + kLinearNames[index] + ", which is " +
                           nameOf(format) + ": '" + kernel.symbol()->str() + "' cannot read that");
    }
  }
  return {};
}

} // namespace

std::optional<int64_t> integerConstant(const fb::Kernel &kernel, std::string_view name) {
  for (const fb::Constant *constant : *kernel.constants())
    if (constant->name()->string_view() == name && !constant->is_real())
      return constant->integer();
  return std::nullopt;
}

std::optional<ExpertAccess> expertAccessOf(const fb::Kernel &kernel) {
  const ExpertKernel *known = findExpertKernel(kernel.implementation()->string_view());
  const std::optional<int64_t> formats = integerConstant(kernel, "formats");
  if (!known || (known->readsAny() && !formats))
    return std::nullopt;
  return ExpertAccess{known, static_cast<uint64_t>(formats.value_or(0))};
}

Status checkKernelFormats(const fb::Artifact &artifact, const fb::Plan &plan) {
  return forEachDispatch(
      artifact, plan,
      [&](const fb::Program &program, const fb::Dispatch &dispatch, const fb::Kernel &kernel) {
        // Vectors are float32, and so are the weights of kernels without the constant.
        const auto stated = integerConstant(kernel, "weight_format");
        for (const fb::Binding *binding : *dispatch.bindings()) {
          Status status;
          const fb::Format expected = stated && !isVector(artifact, *binding)
                                          ? static_cast<fb::Format>(*stated)
                                          : fb::Format::f32;
          if (binding->kind() == fb::BindingKind::experts)
            status = checkExperts(artifact, plan, kernel, binding->index());
          else if (binding->kind() == fb::BindingKind::segment &&
                   formatOf(artifact, binding->index()) != expected)
            status = unsupported("kernel '" + kernel.symbol()->str() + "' reads " +
                                 nameOf(expected) + ", segment '" +
                                 artifact.segments()->Get(binding->index())->name()->str() +
                                 "' is " + nameOf(formatOf(artifact, binding->index())));
          if (!status.ok())
            return std::move(status).withContext("program '" + program.name()->str() + "'");
        }
        return Status();
      });
}

bool hasKernelsFor(const fb::Artifact &artifact, const fb::Plan &plan, uint32_t layer,
                   Linear linear, fb::Format format) {
  return forEachDispatch(artifact, plan,
                         [&](const fb::Program &, const fb::Dispatch &dispatch,
                             const fb::Kernel &kernel) -> Status {
                           for (const fb::Binding *binding : *dispatch.bindings()) {
                             if (binding->kind() != fb::BindingKind::experts ||
                                 binding->index() != layer)
                               continue;
                             const auto access = expertAccessOf(kernel);
                             if (!access || (access->reads(linear) && !access->has(format)))
                               return unsupported("");
                           }
                           return {};
                         })
      .ok();
}

} // namespace moeplan
