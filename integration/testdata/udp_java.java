// udp_java ADDRESS PORT: Java's ways to send a datagram, each of which must come back.
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.StandardProtocolFamily;
import java.nio.ByteBuffer;
import java.nio.channels.DatagramChannel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;

class Datagrams {
	public static void main(String[] args) throws Exception {
		var to = new InetSocketAddress(InetAddress.getByName(args[0]), Integer.parseInt(args[1]));
		try (var socket = new DatagramSocket()) {
			socket.setSoTimeout(5000);
			socket.send(new DatagramPacket("echo 1".getBytes(), 6, to));
			var packet = new DatagramPacket(new byte[100], 100);
			socket.receive(packet);
			System.out.println("DatagramSocket " + new String(packet.getData(), 0, packet.getLength()) + " " + packet.getSocketAddress());
			socket.connect(to);
			socket.send(new DatagramPacket("echo 2".getBytes(), 6));
			socket.receive(packet);
			System.out.println("connected " + new String(packet.getData(), 0, packet.getLength()) + " " + socket.getRemoteSocketAddress());
		}
		for (boolean inet : new boolean[] {false, true}) {
			try (var channel = inet ? DatagramChannel.open(StandardProtocolFamily.INET) : DatagramChannel.open()) {
				var buffer = ByteBuffer.allocate(100);
				channel.send(ByteBuffer.wrap("echo 3".getBytes()), to);
				System.out.println("DatagramChannel " + channel.receive(buffer) + " " + buffer.flip().remaining());
			}
			try (var channel = inet ? DatagramChannel.open(StandardProtocolFamily.INET) : DatagramChannel.open(); var selector = Selector.open()) {
				var buffer = ByteBuffer.allocate(100);
				channel.configureBlocking(false);
				channel.register(selector, SelectionKey.OP_READ);
				System.out.println("nothing yet " + selector.selectNow());
				channel.send(ByteBuffer.wrap("echo 4".getBytes()), to);
				System.out.println("Selector " + selector.select(5000) + " " + channel.receive(buffer) + " " + buffer.flip().remaining());
			}
			try (var channel = inet ? DatagramChannel.open(StandardProtocolFamily.INET) : DatagramChannel.open()) {
				var buffer = ByteBuffer.allocate(100);
				channel.connect(to);
				channel.write(ByteBuffer.wrap("echo 5".getBytes()));
				channel.read(buffer);
				System.out.println("connected " + channel.getRemoteAddress() + " " + buffer.flip().remaining());
			}
		}
	}
}
