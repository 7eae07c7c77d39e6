"""Parts that tests are built from: directories, servers, fleets in memory."""
