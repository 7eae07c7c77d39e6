"""The parts that the scenarios share: fleets, clients, measurements, reports and generated rooms."""
