/* What bindgen reads. Besides the DPDK headers it holds only what bindgen cannot see by
 * itself: macros that are expressions (as typed constants) and macros that are code (as
 * static inline functions, for which build.rs emits callable twins). No logic. */
#ifndef DPDK_SYS_WRAPPER_H
#define DPDK_SYS_WRAPPER_H

#include <stdio.h>
#include <sys/types.h>

#include <rte_config.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_bond.h>
#include <rte_eth_bond_8023ad.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <rte_mempool.h>
#include <rte_memzone.h>
#include <rte_ring.h>
#include <rte_thash.h>
#include <rte_version.h>

/* Constants with the type they are used with. */
static const uint64_t DPDK_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t DPDK_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t DPDK_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t DPDK_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t DPDK_RSS_TRANSPORTS = RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP;
static const uint16_t DPDK_RETA_GROUP = RTE_ETH_RETA_GROUP_SIZE;
static const uint64_t DPDK_RSS_L3_SRC_ONLY = RTE_ETH_RSS_L3_SRC_ONLY;
static const uint64_t DPDK_RSS_L3_DST_ONLY = RTE_ETH_RSS_L3_DST_ONLY;
static const uint8_t DPDK_BOND_ACTIVE_BACKUP = BONDING_MODE_ACTIVE_BACKUP;
static const uint8_t DPDK_BOND_LACP = BONDING_MODE_8023AD;
static const uint8_t DPDK_BOND_BY_PORTS = BALANCE_XMIT_POLICY_LAYER34;
static const uint8_t DPDK_LACP_COLLECTING = STATE_COLLECTING;
static const uint8_t DPDK_LACP_DISTRIBUTING = STATE_DISTRIBUTING;
static const uint64_t DPDK_MBUF_F_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint32_t DPDK_RING_F_SC_DEQ = RING_F_SC_DEQ;
static const uint32_t DPDK_RING_F_EXACT_SZ = RING_F_EXACT_SZ;
static const uint32_t DPDK_MAX_LCORE = RTE_MAX_LCORE;
static const uint32_t DPDK_MAX_ETHPORTS = RTE_MAX_ETHPORTS;
static const uint16_t DPDK_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint32_t DPDK_ETH_NAME_SIZE = RTE_ETH_NAME_MAX_LEN;
static const uint32_t DPDK_ETH_FRAME_OVERHEAD = RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN + 2 * RTE_VLAN_HLEN;
static const uint32_t DPDK_ETH_UNTAGGED_OVERHEAD = RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN;
static const uint32_t DPDK_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE;
static const uint32_t DPDK_MEMPOOL_NAME_SIZE = RTE_MEMPOOL_NAMESIZE;
static const uint32_t DPDK_RING_NAME_SIZE = RTE_RING_NAMESIZE;
static const uint32_t DPDK_MEMZONE_NAME_SIZE = RTE_MEMZONE_NAMESIZE;

/* rte_errno is a macro over a thread-local variable. */
static inline int dpdk_sys_errno(void) { return rte_errno; }

/* FILE* has no counterpart in Rust; everything DPDK logs is handed to one function. */
static inline int dpdk_sys_log_to(ssize_t (*write_fn)(void *cookie, const char *text, size_t len))
{
	cookie_io_functions_t io = {.write = write_fn};
	FILE *stream = fopencookie(NULL, "w", io);

	return stream == NULL ? -1 : rte_openlog_stream(stream);
}

#endif
