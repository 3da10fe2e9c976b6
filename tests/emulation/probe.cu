// SPDX-License-Identifier: Apache-2.0
// A few instantiations of every kernel of plans and mirrors, for architectures that are not built.
#include "mirror.cuh"
#include "plan_prox_group.cuh"

namespace symfast {

template __global__ void plan_kernel<float, kReflect, false>(SF_ARGUMENT PlanArguments<float>);
template __global__ void plan_kernel<float, kReflect, true>(SF_ARGUMENT PlanArguments<float>);
template __global__ void plan_kernel<BFloat16, kProx, false>(SF_ARGUMENT PlanArguments<BFloat16>);
template __global__ void plan_kernel<double, kProx, false>(SF_ARGUMENT PlanArguments<double>);
template __global__ void plan_kernel<double, kProx, true>(SF_ARGUMENT PlanArguments<double>);
template __global__ void plan_kernel<float, kNorms, false>(SF_ARGUMENT PlanArguments<float>);
template __global__ void plan_prox_group<float, false>(SF_ARGUMENT ProxGroupArguments<float>);
template __global__ void plan_prox_group<BFloat16, true>(SF_ARGUMENT ProxGroupArguments<BFloat16>);
template __global__ void mirror_kernel<float, float, kReflect>(
    SF_ARGUMENT MirrorArguments<float, float>);
template __global__ void mirror_kernel<double, double, kProx>(
    SF_ARGUMENT MirrorArguments<double, double>);

}  // namespace symfast
