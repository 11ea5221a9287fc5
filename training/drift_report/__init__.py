"""What is told of a drift monitor: one self-contained HTML page, its pictures drawn as SVG."""
