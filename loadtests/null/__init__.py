"""A model that costs nothing: an engine and a decoder of ours with all but the networks.

What such services take is what everything around the networks takes: ticks, credits, controls, receipts, the
log, snapshots, gRPC. The pictures are 160 x 128 pixels, 61,440 bytes as they are.
"""
